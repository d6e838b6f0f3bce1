"""Starts the ranks of one machine with torchrun."""

import logging
from collections.abc import Sequence

from dist_seg.config.schema import Config
from dist_seg.errors import EXIT_PREEMPTED, ConfigError
from dist_seg.runs.folder import run_dir_of, written_at
from dist_seg.runs.outcome import OUTCOME_NAME, exit_code
from dist_seg.runtime.machine import share_cores


def processes(wanted: str) -> int:
    """Number of processes for `--nproc`; `auto` is one per visible GPU, or one without a GPU."""
    if wanted == "auto":
        import torch  # Only needed here before the ranks start.

        return max(1, torch.cuda.device_count())
    if not wanted.isdigit() or int(wanted) < 1:
        raise ConfigError(f"--nproc {wanted}: expected a number of processes, or auto")
    return int(wanted)


def launch(nproc: int, max_restarts: int, arguments: Sequence[str], config: Config) -> int:
    """Runs `dist-seg ARGUMENTS` on `nproc` ranks; returns their exit code, read from the run folder.

    max_restarts: how often all ranks are restarted after one has failed.
    """
    share_cores(nproc)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    outcome_file = run_dir_of(config) / OUTCOME_NAME
    before = written_at(outcome_file)
    grace = ["--shutdown-timeout", str(config.checkpoint.grace_s)]
    ranks = ["--standalone", "--nproc-per-node", str(nproc), "--max-restarts", str(max_restarts)]
    options = [*ranks, *grace, "-m", "dist_seg", *arguments]
    try:
        run.run(run.parse_args(options))  # type: ignore[no-untyped-call]  # torchrun's own entry is not annotated
    except (ChildFailedError, SignalException) as error:  # The ranks have printed the reason.
        failures = error.failures if isinstance(error, ChildFailedError) else {}
        if written_at(outcome_file) not in (None, before):
            killed = [
                f"rank {rank} by {failure.signal_name()}" for rank, failure in failures.items() if failure.exitcode < 0
            ]
            return exit_code(outcome_file, f"killed: {', '.join(killed)}" if killed else "ended without a message")
        if isinstance(error, SignalException):
            return EXIT_PREEMPTED
        return 2 if 2 in [failure.exitcode for failure in failures.values()] else 1
    return 0
