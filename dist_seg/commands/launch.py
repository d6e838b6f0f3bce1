"""Starting the ranks of one machine with torchrun."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from dist_seg.config.schema import Config
from dist_seg.errors import EXIT_PREEMPTED, ConfigError
from dist_seg.runtime.machine import visible_cores
from dist_seg.storage.files import write_whole


def run_dir_of(config: Config) -> Path:
    """`run.dir`, or `runs/NAME` after the data."""
    if config.run.dir is not None:
        return Path(config.run.dir)
    if not config.data.place:
        raise ConfigError(
            "data.shards is not set: give the folder that `dist-seg pack` wrote, such as data.shards=data/mine"
        )
    name = "+".join(member.name for member in config.data.mix) or config.data.place.rstrip("/").rsplit("/", 1)[-1]
    return Path("runs") / (name if config.data.folds is None else f"{name}-{config.data.scored_split}")


def processes(wanted: str) -> int:
    """How many processes `--nproc` asks for; `auto` is one per visible GPU, or one without a GPU."""
    if wanted == "auto":
        import torch  # Only here is it needed before the ranks start.

        return max(1, torch.cuda.device_count())
    if not wanted.isdigit() or int(wanted) < 1:
        raise ConfigError(f"--nproc {wanted}: expected a number of processes, or auto")
    return int(wanted)


def launch(nproc: int, max_restarts: int, arguments: Sequence[str], config: Config) -> int:
    """Runs `dist-seg ARGUMENTS` on `nproc` ranks; returns their exit code, read from the run folder.

    max_restarts: how often all ranks are started again after one has failed.
    """
    # Set before torch is imported. torchrun itself would set one OpenMP thread a rank and say so at length.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, visible_cores() // nproc)))
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    outcome_file = run_dir_of(config) / "outcome.json"
    before = _written_at(outcome_file)
    grace = ["--shutdown-timeout", str(config.checkpoint.grace_s)]
    ranks = ["--standalone", "--nproc-per-node", str(nproc), "--max-restarts", str(max_restarts)]
    options = [*ranks, *grace, "-m", "dist_seg", *arguments]
    try:
        run.run(run.parse_args(options))  # type: ignore[no-untyped-call]  # torchrun's own entry is not annotated
    except (ChildFailedError, SignalException) as error:  # The ranks have said why.
        failures = error.failures if isinstance(error, ChildFailedError) else {}
        if _written_at(outcome_file) not in (None, before):
            killed = [
                f"rank {rank} by {failure.signal_name()}" for rank, failure in failures.items() if failure.exitcode < 0
            ]
            return exit_code(outcome_file, f"killed: {', '.join(killed)}" if killed else "ended without a word")
        if isinstance(error, SignalException):
            return EXIT_PREEMPTED
        return 2 if 2 in [failure.exitcode for failure in failures.values()] else 1
    return 0


def exit_code(outcome_file: Path, unwritten: str) -> int:
    """The failed run's, by its outcome; where no rank came to write one, this is done here with that reason."""
    outcome = json.loads(outcome_file.read_text())
    if "exit_code" not in outcome:
        outcome = {"outcome": "failed", "exit_code": 1, "step": -1, "reason": unwritten}
        write_whole(outcome_file, json.dumps(outcome, indent=1) + "\n")
    return int(outcome["exit_code"]) or 1


def _written_at(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None
