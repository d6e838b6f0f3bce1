"""Starting the ranks of one machine with torchrun."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from dist_seg.config.schema import Config
from dist_seg.errors import ConfigError
from dist_seg.runtime.machine import visible_cores


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


def launch(nproc: int, arguments: Sequence[str], config: Config) -> int:
    """Runs `dist-seg ARGUMENTS` on `nproc` ranks; returns their exit code, read from the run folder."""
    # Set before torch is imported. torchrun itself would set one OpenMP thread a rank and say so at length.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, visible_cores() // nproc)))
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    outcome_file = run_dir_of(config) / "outcome.json"
    before = _written_at(outcome_file)
    grace = ["--shutdown-timeout", str(config.checkpoint.grace_s)]
    options = ["--standalone", "--nproc-per-node", str(nproc), *grace, "-m", "dist_seg", *arguments]
    try:
        run.run(run.parse_args(options))  # type: ignore[no-untyped-call]  # torchrun's own entry is not annotated
    except (ChildFailedError, SignalException) as error:  # The ranks have said why.
        if _written_at(outcome_file) not in (None, before):
            return int(json.loads(outcome_file.read_text()).get("exit_code", 1)) or 1
        if isinstance(error, SignalException):
            return 143
        codes = [failure.exitcode for failure in error.failures.values()]
        return 2 if 2 in codes else 1
    return 0


def _written_at(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None
