"""Starts the real command in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TINY = [
    "model.encoder=resnet18",
    "model.weights=null",
    "model.aspp_channels=16",
    "model.decoder_channels=16",
    "augment.crop_height=64",
    "augment.crop_width=64",
    "train.global_batch=4",
    "train.micro_batch=2",
    "train.max_steps=6",
    "train.eval_interval_steps=0",
    "checkpoint.interval_steps=3",
    "eval.bootstrap_samples=50",
    "telemetry.digest_interval_steps=1",
]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "dist_seg", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def dist_seg(*arguments: object, cwd: Path, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
    """Runs `dist-seg ARGUMENTS` to its end and gives back code and output."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def tiny_training(shards: Path, run_dir: Path, extra: Sequence[str] = ()) -> list[str]:
    """Arguments of a training of seconds; later overrides win."""
    return ["train", f"data.shards={shards}", f"run.dir={run_dir}", *TINY, *extra]
