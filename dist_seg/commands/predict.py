"""`dist-seg predict`: class-id PNGs and colour overlays of pictures, with a run's model."""

import argparse
import sys
from pathlib import Path
from typing import cast

import torch

from dist_seg.engine.restore import TrainedModel, load_trained
from dist_seg.engine.run import make_deterministic
from dist_seg.engine.run_folder import open_run_folder, pick_checkpoint
from dist_seg.errors import ConfigError
from dist_seg.predict import Picture, Probabilities, draw_legend, find_pictures, predict_pictures
from dist_seg.runtime.allocator import keep_freed_memory
from dist_seg.runtime.collectives import gather_json, on_every_rank, on_main
from dist_seg.runtime.precision import autocast, dtype_of, resolve_precision
from dist_seg.runtime.world import World, detect_world, process_group, set_threads
from dist_seg.tasks.semantic import SemanticTask
from dist_seg.telemetry.progress import progress

_TIMEOUT_S = 24 * 3600.0
"""Ranks wait for the slowest at the end; how long it takes is not known before."""


def run_predict(options: argparse.Namespace) -> int:
    """The command, on this rank: 1 if a picture could not be read."""
    keep_freed_memory()
    if options.window is not None and options.window < 64:
        raise ConfigError(f"--window {options.window}: must be at least 64 pixels")
    world = detect_world()
    set_threads(world, None)
    with process_group(world, _TIMEOUT_S):
        # Chosen once: a run that is still training may commit a newer checkpoint between two ranks' looks, and the
        # first outputs may lie among the pictures before the last rank has looked.
        checkpoint = Path(str(on_main(lambda: _pick(options))))
        pictures, passed_over = _agreed_pictures(options.input, options.out)
        trained = on_every_rank(lambda: load_trained(checkpoint, options.weights, world.device))
        make_deterministic(trained.config, world.device)
        own = pictures[world.rank :: world.size]
        with progress(len(own), "predict", show=world.is_main) as bar:
            summary = on_every_rank(
                lambda: predict_pictures(
                    own,
                    options.out,
                    _probabilities(trained, world),
                    data=trained.config.data,
                    palette=trained.classes.palette,
                    device=world.device,
                    window=options.window,
                    on_picture=bar.advance,
                )
            )
        gathered = cast(list[list[object]], gather_json([summary.written, list(summary.failed)]))
    failed = [reason for _, reasons in gathered for reason in cast(list[str], reasons)]
    if world.is_main:
        draw_legend(options.out, trained.classes.names, trained.classes.palette)
        for reason in failed:
            print(reason, file=sys.stderr)
        others = f", {passed_over} files that are no pictures passed over" if passed_over else ""
        unread = f", {len(failed)} unreadable" if failed else ""
        print(f"{sum(cast(int, written) for written, _ in gathered)} pictures segmented{unread}{others}: {options.out}")
    return 1 if failed else 0


def _pick(options: argparse.Namespace) -> str:
    return str(pick_checkpoint(open_run_folder(options.run_dir, must_exist=True), options.checkpoint))


def _agreed_pictures(root: Path, out: Path) -> tuple[list[Picture], int]:
    """What rank 0 finds, on every rank. A collective."""

    def find() -> object:
        pictures, passed_over = find_pictures(root, out)
        return [[(str(picture.file), str(picture.stem)) for picture in pictures], passed_over]

    found, passed_over = cast(tuple[list[tuple[str, str]], int], on_main(find))
    return [Picture(file=Path(file), stem=Path(stem)) for file, stem in found], passed_over


def _probabilities(trained: TrainedModel, world: World) -> Probabilities:
    precision = resolve_precision(trained.config.train.precision, world.device)
    task = trained.task
    assert isinstance(task, SemanticTask)

    def run(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        with autocast(precision, world.device):
            return task.predict_logits(trained.model, images.to(dtype_of(precision)), size)

    return run
