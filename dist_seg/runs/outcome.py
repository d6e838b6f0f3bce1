"""How a run ended: `outcome.json`, as torchrun hides the exit codes of the ranks."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from dist_seg.errors import EXIT_FAULT, CheckpointError
from dist_seg.runs.folder import RunFolder
from dist_seg.runtime.documents import decode

_log = logging.getLogger(__name__)

OUTCOME_NAME = "outcome.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run, or its latest start, ended."""

    outcome: Literal["complete", "preempted", "failed"]
    exit_code: int
    step: int = -1
    """The last step; -1 if it is not known."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """What stands in the file from the start of a run; `exit_code` is missing until it ended."""

    exit_code: int | None = None


def write_started(folder: RunFolder, process_started: float) -> None:
    """process_started: Unix time."""
    folder.write_json(OUTCOME_NAME, {"outcome": "running", "started": process_started})


def write_outcome(folder: RunFolder, outcome: Outcome) -> None:
    """Only logs a file that cannot be written: a full disk must not hide why the run ended."""
    try:
        folder.write_json(OUTCOME_NAME, asdict(outcome))
    except CheckpointError as error:
        _log.error("%s", error)


def exit_code(outcome_file: Path, unwritten: str) -> int:
    """The exit code of a failed run. unwritten: the reason to write into the file if no rank came to write one.

    Raises DataError for a file that is not what a run writes.
    """
    found = decode(outcome_file.read_bytes(), _Stored, str(outcome_file)).exit_code
    if found is None:
        outcome = Outcome(outcome="failed", exit_code=EXIT_FAULT, reason=unwritten)
        RunFolder(path=outcome_file.parent).write_json(outcome_file.name, asdict(outcome))
        return EXIT_FAULT
    return found or EXIT_FAULT
