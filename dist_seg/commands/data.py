"""`dist-seg pack` and `verify`."""

import argparse
import math
import sys
from functools import partial
from pathlib import Path
from typing import Self

from dist_seg.data.formats import AnySource, load_source
from dist_seg.data.formats.ade20k import Ade20kSource, open_ade20k
from dist_seg.data.formats.camvid import CamvidSource
from dist_seg.data.formats.cityscapes import CityscapesInstances, CityscapesSource
from dist_seg.data.formats.coco import open_coco
from dist_seg.data.formats.coco_panoptic import open_coco_panoptic
from dist_seg.data.formats.coco_stuff import CocoStuffSource, open_coco_stuff
from dist_seg.data.formats.folder import open_folder
from dist_seg.data.formats.instance_ids import open_instance_ids
from dist_seg.data.formats.label_folders import open_label_folders
from dist_seg.data.formats.labelme import LabelmeSource, open_labelme
from dist_seg.data.formats.object_labels import ObjectLabels
from dist_seg.data.formats.synthetic import SyntheticInstances, SyntheticLabels, SyntheticSource
from dist_seg.data.formats.voc import VocSource, open_voc
from dist_seg.data.headers import MAX_PIXELS
from dist_seg.data.manifest import Manifest, Split
from dist_seg.data.pack import pack
from dist_seg.data.pack_append import append
from dist_seg.data.pack_part import Part
from dist_seg.data.verify import verify
from dist_seg.errors import UserError
from dist_seg.runtime.machine import visible_cores
from dist_seg.telemetry.progress import ProgressDisplay


def run_pack(options: argparse.Namespace) -> int:
    """The command."""
    shard_bytes = _shard_bytes(options.shard_mb)
    part = Part.parse(options.part_of) if options.part_of else None
    source = _source(options)
    out: Path = options.out / part.folder_name if part else options.out
    with Bar("pack") as bar:
        onto = append if options.append else partial(pack, part=part, overwrite=options.overwrite)
        result = onto(
            source,
            out,
            workers=options.workers or visible_cores(),
            shard_bytes=shard_bytes,
            skip_bad=options.skip_bad,
            max_pixels=options.max_pixels or MAX_PIXELS,
            max_side=options.max_side,
            progress=bar.show,
        )
    for refusal in result.skipped:
        print(f"left out: {refusal}", file=sys.stderr)
    for annotation in result.skipped_annotations:
        print(f"left out: {annotation}", file=sys.stderr)
    print_summary(f"{out}: part {part}" if part else str(out), result.manifest)
    if result.kept_shards:
        print(f"  {result.kept_shards} shards were there already")
    if options.append:
        new = result.written_shards + result.kept_shards
        there = f"{count_of(result.present_samples, 'sample')} of the source were there already"
        print(f"  {there}; {count_of(new, 'shard')} added" if new else f"  {there}: nothing to append")
    if part:
        print(f"when all {part.count} parts are there: dist-seg merge {options.out}")
    return 0


def print_summary(where: str, manifest: Manifest) -> None:
    """Classes, and what each split holds."""
    images = f", images of {manifest.image}" if manifest.image else ""
    print(f"{where}: {len(manifest.class_names)} classes ({', '.join(manifest.class_names)}){images}")
    for name, split in manifest.splits.items():
        left_out = f", {split.skipped_samples} left out" if split.skipped_samples else ""
        print(f"  {name:8s} {split.num_samples} samples in {len(split.shards)} shards{left_out}{_objects(split)}")


def _objects(split: Split) -> str:
    counts = split.objects
    if counts is None:
        return ""
    text = f"; {counts.total} objects, at most {counts.max_objects} an image"
    if counts.crowd_objects:
        text += f", {counts.crowd_objects} crowds"
    if counts.skipped_annotations:
        text += f", {counts.skipped_annotations} annotations left out"
    if counts.overfull_objects:
        text += (
            f"; {counts.overfull_objects} lie under more objects than there are layers, {counts.hidden_pixels} pixels"
        )
    return text


def run_verify(options: argparse.Namespace) -> int:
    """The command: 1 if anything differs from the manifest."""
    with Bar("verify") as bar:
        problems = verify(options.shards, workers=visible_cores(), progress=bar.show)
    for problem in problems:
        print(problem)
    outcome = count_of(len(problems), "problem") if problems else "as it was packed"
    print(f"{options.shards}: {outcome}")
    return 1 if problems else 0


def count_of(count: int, what: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{count} {what}{'s' * (count != 1)}"


def _shard_bytes(megabytes: float) -> int:
    if not (math.isfinite(megabytes) and megabytes * 1e6 >= 1):
        raise UserError(f"--shard-mb {megabytes:g}: give the size of a shard in megabytes, such as 64")
    return int(megabytes * 1e6)


class Bar:
    """A progress display that begins when the total is known."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._display: ProgressDisplay | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave it as it is; it may be closed again."""
        if self._display is not None:
            self._display.close()

    def show(self, done: int, total: int) -> None:
        if self._display is None:
            self._display = ProgressDisplay(total, self._label)
        self._display.update(done)


def _source(options: argparse.Namespace) -> AnySource:
    max_pixels, skip_bad = options.max_pixels or MAX_PIXELS, options.skip_bad
    match options.format:
        case "folder":
            with Bar("read masks") as bar:
                source = open_folder(
                    options.images,
                    options.masks,
                    classes=options.classes,
                    colors=options.colors,
                    val=options.val,
                    group_by=options.group_by,
                    split=options.split,
                    max_pixels=max_pixels,
                    skip_bad=skip_bad,
                    progress=bar.show,
                )
            for note in source.notes:
                print(note)
            return source
        case "camvid":
            return CamvidSource(
                root=options.source,
                dev_prefix=options.dev_prefix,
                max_pixels=max_pixels,
                skip_bad=skip_bad,
            )
        case "coco":
            root: Path = options.source
            parts = [(name, root / images, root / annotations) for name, images, annotations in options.splits]
            coco = open_coco(root, parts, max_pixels=max_pixels, skip_bad=skip_bad)
            return ObjectLabels(instances=coco) if options.multi_label else coco
        case "labels":
            labels = open_label_folders(
                options.images,
                options.masks,
                classes=options.classes,
                unknown=options.unknown,
                missing_is_absent=options.missing_is_absent,
                val=options.val,
                group_by=options.group_by,
                split=options.split,
                max_pixels=max_pixels,
                skip_bad=skip_bad,
            )
            for note in labels.notes:
                print(note)
            return labels
        case "instances":
            ids = open_instance_ids(
                options.images,
                options.masks,
                classes=options.classes,
                divisor=options.divisor,
                val=options.val,
                group_by=options.group_by,
                split=options.split,
                max_pixels=max_pixels,
                skip_bad=skip_bad,
            )
            for note in ids.notes:
                print(note)
            return ids
        case "cityscapes-instances":
            return CityscapesInstances(root=options.source, max_pixels=max_pixels, skip_bad=skip_bad)
        case "synthetic":
            height, width = options.size
            scenes = SyntheticSource(
                num_train=options.train_images,
                num_val=options.val_images,
                height=height,
                width=width,
                seed=options.seed,
            )
            match options.task:
                case "instance":
                    return SyntheticInstances(scenes=scenes)
                case "multilabel":
                    return SyntheticLabels(scenes=scenes)
                case _:
                    return scenes
        case "reader":
            return load_source(options.reader, options.arguments)
        case _:
            return _published_source(options)


def _published_source(options: argparse.Namespace) -> AnySource:
    """Masks of classes in the layout of a public data set."""
    max_pixels, skip_bad = options.max_pixels or MAX_PIXELS, options.skip_bad
    root: Path = options.source
    source: VocSource | Ade20kSource | CocoStuffSource | LabelmeSource
    match options.format:
        case "cityscapes":
            return CityscapesSource(root=root, max_pixels=max_pixels, skip_bad=skip_bad)
        case "ade20k":
            source = open_ade20k(root, max_pixels=max_pixels, skip_bad=skip_bad)
        case "coco-panoptic":
            paths = [(name, root / images, root / file, root / pngs) for name, images, file, pngs in options.splits]
            return open_coco_panoptic(
                root, paths, merge_things=options.merge_things, max_pixels=max_pixels, skip_bad=skip_bad
            )
        case "coco-stuff":
            source = open_coco_stuff(
                root,
                [(name, root / images, root / masks) for name, images, masks in options.splits],
                numbering=options.numbers,
                categories=options.categories,
                max_pixels=max_pixels,
                skip_bad=skip_bad,
            )
        case "labelme":
            with Bar("read annotations") as bar:
                source = open_labelme(
                    root,
                    classes=options.classes,
                    unlabelled=options.unlabelled,
                    val=options.val,
                    group_by=options.group_by,
                    split=options.split,
                    max_pixels=max_pixels,
                    skip_bad=skip_bad,
                    apart_from=options.out,
                    progress=bar.show,
                )
        case _:
            source = open_voc(
                root,
                options.splits,
                masks=options.masks,
                classes=options.classes,
                val=options.val,
                group_by=options.group_by,
                split=options.split,
                max_pixels=max_pixels,
                skip_bad=skip_bad,
            )
    for note in source.notes:
        print(note)
    return source
