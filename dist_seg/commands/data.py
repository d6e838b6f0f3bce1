"""`dist-seg pack`, `verify` and `inspect`."""

import argparse
import sys
from pathlib import Path

from dist_seg.data.formats import Source, load_source
from dist_seg.data.formats.camvid import CamvidSource
from dist_seg.data.formats.images import MAX_PIXELS
from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.pack import pack
from dist_seg.runtime.world import visible_cores
from dist_seg.telemetry.progress import ProgressDisplay


def run_pack(options: argparse.Namespace) -> int:
    """The command."""
    source = _source(options)
    out: Path = options.out
    display: ProgressDisplay | None = None

    def show(done: int, total: int) -> None:
        nonlocal display
        if display is None:
            display = ProgressDisplay(total, "pack")
        display.update(done)

    try:
        result = pack(
            source,
            out,
            workers=options.workers or visible_cores(),
            shard_bytes=int(options.shard_mb * 1e6),
            skip_bad=options.skip_bad,
            max_pixels=options.max_pixels or MAX_PIXELS,
            overwrite=options.overwrite,
            progress=show,
        )
    finally:
        if display is not None:
            display.close()
    for refusal in result.skipped:
        print(f"left out: {refusal}", file=sys.stderr)
    splits = result.manifest.splits
    print(f"{out}: {len(result.manifest.class_names)} classes ({', '.join(result.manifest.class_names)})")
    for name, split in splits.items():
        left_out = f", {split.skipped_samples} left out" if split.skipped_samples else ""
        print(f"  {name:8s} {split.num_samples} samples in {len(split.shards)} shards{left_out}")
    if result.kept_shards:
        print(f"  {result.kept_shards} shards were there already")
    return 0


def _source(options: argparse.Namespace) -> Source:
    match options.format:
        case "camvid":
            return CamvidSource(root=options.source)
        case "synthetic":
            height, width = options.size
            return SyntheticSource(
                num_train=options.train_images,
                num_val=options.val_images,
                height=height,
                width=width,
                seed=options.seed,
            )
        case _:
            return load_source(options.reader)
