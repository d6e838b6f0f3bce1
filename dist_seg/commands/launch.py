"""Starting the ranks of one machine with torchrun."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from dist_seg.config.schema import Config
from dist_seg.errors import ConfigError


def run_dir_of(config: Config) -> Path:
    """`run.dir`, or `runs/NAME` after the data."""
    if config.run.dir is not None:
        return Path(config.run.dir)
    if config.data.shards is None:
        raise ConfigError(
            "data.shards is not set: give the folder that `dist-seg pack` wrote, such as data.shards=data/mine"
        )
    return Path("runs") / config.data.shards.rstrip("/").rsplit("/", 1)[-1]


def processes(wanted: str) -> int:
    """How many processes `--nproc` asks for; `auto` is one per visible GPU, or one without a GPU."""
    if wanted == "auto":
        import torch  # Only here is it needed before the ranks start.

        return max(1, torch.cuda.device_count())
    if not wanted.isdigit() or int(wanted) < 1:
        raise ConfigError(f"--nproc {wanted}: expected a number of processes, or auto")
    return int(wanted)


def launch(nproc: int, arguments: Sequence[str], run_dir: Path | None) -> int:
    """Runs `dist-seg ARGUMENTS` on `nproc` ranks; returns their exit code, read from the run folder."""
    outcome_file = run_dir / "outcome.json" if run_dir is not None else None
    before = outcome_file.stat().st_mtime_ns if outcome_file is not None and outcome_file.exists() else None
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(nproc)]
    process = subprocess.Popen([*command, "-m", "dist_seg", *arguments])

    def forward(number: int, frame: FrameType | None) -> None:
        # A terminal's Ctrl-C reaches the ranks by itself.
        if number == signal.SIGTERM:
            process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    code = process.wait()
    if code == 0 or outcome_file is None or not outcome_file.exists():
        return 0 if code == 0 else 1
    if outcome_file.stat().st_mtime_ns == before:
        return 2  # No rank got as far as starting a run: the call or the data is at fault, and it was said why.
    outcome = json.loads(outcome_file.read_text())
    return int(outcome.get("exit_code", 1)) or 1
