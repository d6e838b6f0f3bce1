"""The raw data set that `dist-seg pack` is given."""

import argparse
from pathlib import Path
from typing import Protocol, TypeVar

from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.formats.ade20k import open_ade20k
from dist_seg.data.formats.camvid import CamvidSource
from dist_seg.data.formats.cityscapes import CityscapesInstances, CityscapesSource
from dist_seg.data.formats.coco.instances import open_coco
from dist_seg.data.formats.coco.panoptic import open_coco_panoptic
from dist_seg.data.formats.coco.stuff import open_coco_stuff
from dist_seg.data.formats.folder import open_folder
from dist_seg.data.formats.instance_ids import open_instance_ids
from dist_seg.data.formats.label_folders import open_label_folders
from dist_seg.data.formats.labelme.source import open_labelme
from dist_seg.data.formats.synthetic import SyntheticInstances, SyntheticLabels, SyntheticSource
from dist_seg.data.formats.voc.source import open_voc
from dist_seg.data.packing.records import RecordedOptions
from dist_seg.data.raw.object_labels import ObjectLabels
from dist_seg.data.raw.source import AnySource, RawReading, load_source
from dist_seg.data.raw.splitting import DIVISION, Dividing
from dist_seg.runtime.progress_bar import Bar


class _HasNotes(Protocol):
    @property
    def notes(self) -> tuple[str, ...]: ...


Noted = TypeVar("Noted", bound=_HasNotes)


def open_source(options: argparse.Namespace, recorded: RecordedOptions | None = None) -> AnySource:
    """The data set that the options name; what the user should see of it is printed.

    recorded: with which options the data set was packed that is appended to; None unless one is.
    """
    reading = RawReading(max_pixels=options.max_pixels or MAX_PIXELS, skip_bad=options.skip_bad)
    match options.format:
        case "folder" | "labels" | "instances":
            return _of_two_folders(options, reading, recorded)
        case "synthetic":
            return _synthetic(options)
        case "reader":
            return load_source(options.reader, options.arguments)
        case _:
            return _published(options, reading, recorded)


def _of_two_folders(options: argparse.Namespace, reading: RawReading, recorded: RecordedOptions | None) -> AnySource:
    """A folder of images and one of masks."""
    match options.format:
        case "folder":
            with Bar("read masks") as bar:
                source = open_folder(
                    options.images,
                    options.masks,
                    classes=options.classes,
                    colors=options.colors,
                    dividing=_dividing(options, recorded),
                    reading=reading,
                    before=recorded,
                    progress=bar.show,
                )
            return _noted(source)
        case "labels":
            return _noted(
                open_label_folders(
                    options.images,
                    options.masks,
                    classes=options.classes,
                    unknown=options.unknown,
                    missing_is_absent=options.missing_is_absent,
                    dividing=_dividing(options, recorded),
                    reading=reading,
                )
            )
        case _:
            return _noted(
                open_instance_ids(
                    options.images,
                    options.masks,
                    classes=options.classes,
                    divisor=options.divisor,
                    dividing=_dividing(options, recorded),
                    reading=reading,
                )
            )


def _synthetic(options: argparse.Namespace) -> AnySource:
    height, width = options.size
    scenes = SyntheticSource(
        num_train=options.train_images, num_val=options.val_images, height=height, width=width, seed=options.seed
    )
    match options.task:
        case "instance":
            return SyntheticInstances(scenes=scenes)
        case "multilabel":
            return SyntheticLabels(scenes=scenes)
        case _:
            return scenes


def _published(options: argparse.Namespace, reading: RawReading, recorded: RecordedOptions | None) -> AnySource:
    """In the layout of a public data set."""
    root: Path = options.source
    match options.format:
        case "camvid":
            return CamvidSource(root=root, dev_prefix=options.dev_prefix, reading=reading)
        case "coco":
            coco = open_coco(root, [(name, root / i, root / a) for name, i, a in options.splits], reading=reading)
            return ObjectLabels(instances=coco) if options.multi_label else coco
        case "cityscapes":
            return CityscapesSource(root=root, reading=reading)
        case "cityscapes-instances":
            return CityscapesInstances(root=root, reading=reading)
        case "ade20k":
            return _noted(open_ade20k(root, reading=reading))
        case "coco-panoptic":
            panoptic = [(name, root / i, root / file, root / pngs) for name, i, file, pngs in options.splits]
            return open_coco_panoptic(root, panoptic, merge_things=options.merge_things, reading=reading)
        case "coco-stuff":
            parts = [(name, root / images, root / masks) for name, images, masks in options.splits]
            stuff = open_coco_stuff(
                root, parts, numbering=options.numbers, categories=options.categories, reading=reading
            )
            return _noted(stuff)
        case "labelme":
            with Bar("read annotations") as bar:
                labelme = open_labelme(
                    root,
                    classes=options.classes,
                    unlabelled=options.unlabelled,
                    dividing=_dividing(options, recorded),
                    reading=reading,
                    apart_from=options.out,
                    progress=bar.show,
                )
            return _noted(labelme)
        case _:
            voc = open_voc(
                root,
                options.splits,
                masks=options.masks,
                classes=options.classes,
                dividing=_dividing(options, recorded),
                reading=reading,
            )
            return _noted(voc)


def _dividing(options: argparse.Namespace, recorded: RecordedOptions | None) -> Dividing:
    """Of a format whose folders need not be divided."""
    dividing = Dividing(val=options.val, group_by=options.group_by, split=options.split)
    return dividing if recorded is None else dividing.as_before(recorded.get(DIVISION), options.out)


def _noted(source: Noted) -> Noted:
    """The source, its notes printed."""
    for note in source.notes:
        print(note)
    return source
