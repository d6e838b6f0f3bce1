"""Opens the raw data set that `dist-seg pack` is given."""

import argparse
from pathlib import Path

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


def open_source(options: argparse.Namespace, recorded: RecordedOptions | None = None) -> AnySource:
    """Open the data set that the options name, and print the notes of its format.

    recorded: when appending, the options that the existing data set was packed with.
    """
    reading = RawReading(max_pixels=options.max_pixels or MAX_PIXELS, skip_bad=options.skip_bad)
    match options.format:
        case "reader":
            return load_source(options.reader, options.arguments)
        case "synthetic":
            return _synthetic(options)
        case "folder" | "labels" | "instances":
            source = _of_two_folders(options, reading, recorded)
        case "coco" | "coco-panoptic" | "coco-stuff":
            source = _of_coco(options, reading)
        case _:
            source = _published(options, reading, recorded)
    for note in getattr(source, "notes", ()):
        print(note)
    return source


def _of_two_folders(options: argparse.Namespace, reading: RawReading, recorded: RecordedOptions | None) -> AnySource:
    """A folder of images and a folder of masks."""
    dividing = _dividing(options, recorded)
    match options.format:
        case "folder":
            with Bar("read masks") as bar:
                return open_folder(
                    options.images,
                    options.masks,
                    classes=options.classes,
                    colors=options.colors,
                    dividing=dividing,
                    reading=reading,
                    before=recorded,
                    progress=bar.show,
                )
        case "labels":
            return open_label_folders(
                options.images,
                options.masks,
                classes=options.classes,
                unknown=options.unknown,
                missing_is_absent=options.missing_is_absent,
                dividing=dividing,
                reading=reading,
            )
        case _:
            return open_instance_ids(
                options.images,
                options.masks,
                classes=options.classes,
                divisor=options.divisor,
                dividing=dividing,
                reading=reading,
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


def _of_coco(options: argparse.Namespace, reading: RawReading) -> AnySource:
    """Annotations of COCO, or masks in its layout."""
    root: Path = options.source
    splits = [(name, *(root / path for path in paths)) for name, *paths in options.splits]
    match options.format:
        case "coco":
            coco = open_coco(root, splits, reading=reading)
            return ObjectLabels(instances=coco) if options.multi_label else coco
        case "coco-panoptic":
            return open_coco_panoptic(root, splits, merge_things=options.merge_things, reading=reading)
        case _:
            return open_coco_stuff(
                root, splits, numbering=options.numbers, categories=options.categories, reading=reading
            )


def _published(options: argparse.Namespace, reading: RawReading, recorded: RecordedOptions | None) -> AnySource:
    """Another layout of a public data set or a labelling tool."""
    root: Path = options.source
    match options.format:
        case "camvid":
            return CamvidSource(root=root, dev_prefix=options.dev_prefix, reading=reading)
        case "cityscapes":
            return CityscapesSource(root=root, reading=reading)
        case "cityscapes-instances":
            return CityscapesInstances(root=root, reading=reading)
        case "ade20k":
            return open_ade20k(root, reading=reading)
        case "labelme":
            with Bar("read annotations") as bar:
                return open_labelme(
                    root,
                    classes=options.classes,
                    unlabelled=options.unlabelled,
                    dividing=_dividing(options, recorded),
                    reading=reading,
                    apart_from=options.out,
                    progress=bar.show,
                )
        case _:
            return open_voc(
                root,
                options.splits,
                masks=options.masks,
                classes=options.classes,
                dividing=_dividing(options, recorded),
                reading=reading,
            )


def _dividing(options: argparse.Namespace, recorded: RecordedOptions | None) -> Dividing:
    """How to divide a data set whose folders do not."""
    dividing = Dividing(val=options.val, group_by=options.group_by, split=options.split)
    return dividing if recorded is None else dividing.as_before(recorded.get(DIVISION), options.out)
