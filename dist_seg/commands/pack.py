"""`dist-seg pack`: raw data into shards."""

import argparse
import math
import sys
from pathlib import Path

from dist_seg.commands.pack_sources import open_source
from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.packing.append import append, open_for_append
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.packing.parts import Part
from dist_seg.data.shards.manifest import Manifest, Split
from dist_seg.errors import UserError
from dist_seg.runtime.machine import visible_cores
from dist_seg.runtime.plural import count_of
from dist_seg.runtime.progress_bar import Bar


def run_pack(options: argparse.Namespace) -> int:
    """The command."""
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
        ignored = ""
        if manifest.task == "semantic" and split.ignored_pixels:
            share = split.ignored_pixels / (split.ignored_pixels + sum(split.class_pixels))
            ignored = f"; {share:.2%} of the pixels ignored"
        print(
            f"  {name:8s} {split.num_samples} samples in {len(split.shards)} shards{left_out}{_objects(split)}{ignored}"
        )


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


def _shard_bytes(megabytes: float) -> int:
    if not (math.isfinite(megabytes) and megabytes * 1e6 >= 1):
        raise UserError(f"--shard-mb {megabytes:g}: give the size of a shard in megabytes, such as 64")
    return int(megabytes * 1e6)
