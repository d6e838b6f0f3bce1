"""`dist-seg predict`: class-id PNGs and colour overlays of pictures, with a run's model."""

import argparse
import sys
from typing import cast

import torch

from dist_seg.engine.restore import TrainedModel, load_trained
from dist_seg.engine.run import make_deterministic
from dist_seg.engine.run_folder import open_run_folder, pick_checkpoint
from dist_seg.errors import ConfigError
from dist_seg.predict import Probabilities, draw_legend, find_pictures, predict_pictures
from dist_seg.runtime.allocator import keep_freed_memory
from dist_seg.runtime.collectives import gather_json
from dist_seg.runtime.precision import autocast, dtype_of, resolve_precision
from dist_seg.runtime.world import World, detect_world, process_group, set_threads
from dist_seg.tasks.semantic import SemanticTask
from dist_seg.telemetry.progress import progress

_TIMEOUT_S = 24 * 3600.0
"""Ranks meet once, at the end; how long the slowest takes is not known before."""


def run_predict(options: argparse.Namespace) -> int:
    """The command, on this rank: 1 if a picture could not be read."""
    keep_freed_memory()
    if options.window is not None and options.window < 64:
        raise ConfigError(f"--window {options.window}: must be at least 64 pixels")
    world = detect_world()
    folder = open_run_folder(options.run_dir, must_exist=True)
    checkpoint = pick_checkpoint(folder, options.checkpoint)
    pictures, passed_over = find_pictures(options.input)
    set_threads(world, None)
    with process_group(world, _TIMEOUT_S):
        trained = load_trained(checkpoint, options.weights, world.device)
        make_deterministic(trained.config, world.device)
        own = pictures[world.rank :: world.size]
        with progress(len(own), "predict", show=world.is_main) as bar:
            summary = predict_pictures(
                own,
                options.out,
                _probabilities(trained, world),
                data=trained.config.data,
                palette=trained.classes.palette,
                device=world.device,
                window=options.window,
                on_picture=bar.advance,
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


def _probabilities(trained: TrainedModel, world: World) -> Probabilities:
    precision = resolve_precision(trained.config.train.precision, world.device)
    task = trained.task
    assert isinstance(task, SemanticTask)

    def run(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        with autocast(precision, world.device):
            return task.predict_logits(trained.model, images.to(dtype_of(precision)), size)

    return run
