"""`dist-seg pack`: raw data into shards."""

import argparse
import math
import sys
from pathlib import Path

from dist_seg.commands.pack_sources import open_source
from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.packing.append import append, open_for_append
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import PackResult, pack
from dist_seg.data.packing.parts import Part
from dist_seg.data.shards.manifest import Manifest, ObjectCounts
from dist_seg.errors import UserError
from dist_seg.runtime.machine import visible_cores
from dist_seg.runtime.plural import count_of
from dist_seg.runtime.progress_bar import Bar


def run_pack(options: argparse.Namespace) -> int:
    """Run the command."""
    how = PackOptions(
        workers=options.workers or visible_cores(),
        shard_bytes=_shard_bytes(options.shard_mb),
        skip_bad=options.skip_bad,
        max_pixels=options.max_pixels or MAX_PIXELS,
        max_side=options.max_side,
    )
    part = Part.parse(options.part_of) if options.part_of else None
    out: Path = options.out / part.folder_name if part else options.out
    data = open_for_append(out) if options.append else None
    source = open_source(options, (data.options or {}) if data else None)
    with Bar("pack") as bar:
        if data:
            result = append(source, data, how, progress=bar.show)
        else:
            result = pack(source, out, how, part=part, overwrite=options.overwrite, progress=bar.show)
    for reason in (*result.skipped, *result.skipped_annotations):
        print(f"left out: {reason}", file=sys.stderr)
    print_summary(f"{out}: part {part}" if part else str(out), result.manifest)
    _print_shards(result, is_appended=data is not None)
    if part:
        print(f"once all {part.count} parts are packed: dist-seg merge {options.out}")
    return 0


def _print_shards(result: PackResult, *, is_appended: bool) -> None:
    kept, new = result.kept_shards, result.written_shards + result.kept_shards
    if kept:
        print(f"  {count_of(kept, 'shard')} {'was' if kept == 1 else 'were'} there already")
    if is_appended:
        present = result.present_samples
        there = f"{count_of(present, 'sample')} of the source {'was' if present == 1 else 'were'} there already"
        print(f"  {there}; {count_of(new, 'shard')} added" if new else f"  {there}: nothing to append")


def print_summary(where: str, manifest: Manifest) -> None:
    """Print the classes, and what each split holds."""
    images = f", images of {manifest.image}" if manifest.image else ""
    print(f"{where}: {count_of(manifest.num_classes, 'class')} ({', '.join(manifest.class_names)}){images}")
    for name, split in manifest.splits.items():
        left_out = f", {split.skipped_samples} left out" if split.skipped_samples else ""
        ignored = ""
        if manifest.task == "semantic" and split.ignored_pixels:
            share = split.ignored_pixels / (split.ignored_pixels + sum(split.class_pixels))
            ignored = f"; {share:.2%} of the pixels ignored"
        objects = _objects_text(split.objects) if split.objects else ""
        samples, shards = count_of(split.num_samples, "sample"), count_of(len(split.shards), "shard")
        print(f"  {name:8s} {samples} in {shards}{left_out}{objects}{ignored}")


def _objects_text(counts: ObjectCounts) -> str:
    text = f"; {count_of(counts.total, 'object')}, at most {counts.max_objects} per image"
    if counts.crowd_objects:
        text += f", {count_of(counts.crowd_objects, 'crowd')}"
    if counts.skipped_annotations:
        text += f", {count_of(counts.skipped_annotations, 'annotation')} left out"
    if counts.overfull_objects:
        text += (
            f"; {count_of(counts.overfull_objects, 'object')} overlapped by more objects than there are layers, "
            f"{count_of(counts.hidden_pixels, 'pixel')} hidden"
        )
    return text


def _shard_bytes(megabytes: float) -> int:
    if not (math.isfinite(megabytes) and megabytes * 1e6 >= 1):
        raise UserError(f"--shard-mb {megabytes:g}: give the size of a shard in megabytes, such as 64")
    return int(megabytes * 1e6)
