"""Starts the real command in a process of its own."""

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from dist_seg.cli.main import main
from tests.distributed.ranks import FORKSERVER, send_output

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
    """Runs `dist-seg ARGUMENTS` to its end and gives back code and output.

    In a process of its own, forked from one that has imported everything: importing takes longer than most commands.
    """
    texts = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        process = FORKSERVER.Process(target=_main, args=(texts, str(cwd), folder, environment()))
        process.start()
        try:
            process.join(timeout_s)
            code = process.exitcode
        finally:
            process.kill()
            process.join()
        output = {name: Path(folder, name).read_text() for name in ("stdout", "stderr")}
    if code is None:
        raise subprocess.TimeoutExpired(texts, timeout_s, output["stdout"], output["stderr"])
    return subprocess.CompletedProcess(texts, code, **output)


def _main(arguments: list[str], cwd: str, output: str, variables: dict[str, str]) -> None:
    send_output(os.path.join(output, "stdout"), 1)
    send_output(os.path.join(output, "stderr"), 2)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    torch.set_num_threads(1)
    try:
        sys.exit(main(arguments))
    finally:
        atexit._run_exitfuncs()  # As the interpreter does at its end, which a forked process does not come to.


def tiny_training(shards: Path, run_dir: Path, extra: Sequence[str] = ()) -> list[str]:
    """Arguments of a training of seconds; later overrides win."""
    return ["train", f"data.shards={shards}", f"run.dir={run_dir}", *TINY, *extra]
