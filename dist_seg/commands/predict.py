"""`dist-seg predict`: masks and overlays of pictures, and instances as COCO's results, with a run's model."""

import argparse
import sys

from dist_seg.distributed.world import detect_world, set_threads
from dist_seg.predict.pictures import RESULTS_NAME
from dist_seg.predict.predict import PredictOptions, PredictSummary, predict
from dist_seg.runtime.memory import keep_freed_memory
from dist_seg.runtime.plural import count_of


def run_predict(options: argparse.Namespace) -> int:
    """The command, on this rank: 1 if a picture could not be read."""
    keep_freed_memory()
    chosen = PredictOptions(
        run_dir=options.run_dir,
        checkpoint=options.checkpoint,
        weights=options.weights,
        input=options.input,
        out=options.out,
        window=options.window,
        min_score=options.min_score,
        images=options.images,
    )
    world = detect_world()
    set_threads(world, None)
    summary = predict(chosen, world)
    if world.is_main:
        for reason in summary.failed:
            print(reason, file=sys.stderr)
        print(f"{_told(summary)}: {chosen.out}")
    return 1 if summary.failed else 0


def _told(summary: PredictSummary) -> str:
    parts = [f"{count_of(summary.written, 'picture')} segmented"]
    if summary.instances is not None and summary.written:
        parts.append(f"{count_of(summary.instances, 'instance')} in {RESULTS_NAME}")
    if summary.failed:
        parts.append(f"{len(summary.failed)} unreadable")
    if summary.passed_over:
        parts.append(f"{count_of(summary.passed_over, 'other file')} skipped")
    return ", ".join(parts)
