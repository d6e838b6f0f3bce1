"""The log of a run: every event as one line of strict JSON, and the reader of it.

Rank 0 writes `events.jsonl`, rank 3 `events-rank3.jsonl`. A line holds an event's fields, its name as `event`, the Unix
time as `time_s`, and the `rank`. JSON has no NaN and no infinities, so these are written as the strings "NaN",
"Infinity" and "-Infinity", which the reader turns back into numbers. A restart appends to the log. If a process was
killed while it wrote, half a line remains in the log.
"""

import json
import logging
import math
import numbers
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import get_args

import msgspec

from dist_seg.errors import DataError
from dist_seg.storage.files import path_errors
from dist_seg.telemetry.events import BadSampleFound, BadShardFound, Event, RunEnded, RunStarted, StepDone

logger = logging.getLogger(__name__)

_KINDS: Mapping[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


def log_path(run_dir: Path, rank: int) -> Path:
    """The path of a rank's log."""
    return run_dir / ("events.jsonl" if rank == 0 else f"events-rank{rank}.jsonl")


class JsonLinesSink:
    """Appends a rank's events to its log. Each is flushed to the operating system before `emit` returns.

    Raises UserError if the log cannot be opened.
    """

    def __init__(self, run_dir: Path, *, rank: int, log_interval_steps: int = 1) -> None:
        self._rank = rank
        self._interval_steps = log_interval_steps
        path = log_path(run_dir, rank)
        with path_errors(path):
            run_dir.mkdir(parents=True, exist_ok=True)
            self._file = _open_for_append(path)

    def emit(self, event: Event) -> None:
        """Writes every event except steps between two log intervals. Steps that training skipped are always written."""
        if isinstance(event, StepDone) and not event.skipped and event.step % self._interval_steps:
            return
        record = {"event": type(event).__name__, "time_s": round(time.time(), 3), "rank": self._rank}
        record.update(vars(event))
        self._file.write(_to_json(record) + "\n")

    def close(self) -> None:
        self._file.close()


def _open_for_append(path: Path) -> TextIOWrapper:
    """The log, positioned at the start of a line, even if a killed process left half a line at its end."""
    torn = False
    if path.exists() and path.stat().st_size > 0:
        with path.open("rb") as old:
            old.seek(-1, 2)
            torn = old.read(1) != b"\n"
    file = path.open("a", encoding="utf-8", buffering=1, newline="\n")
    if torn:
        file.write("\n")
    return file


def _to_json(record: Mapping[str, object]) -> str:
    try:
        return json.dumps(record, default=_as_plain, allow_nan=False, separators=(", ", ": "))
    except ValueError:  # the rare record with a number that JSON cannot express
        return json.dumps(_finite(record), allow_nan=False, separators=(", ", ": "))


def _as_plain(value: object) -> object:
    """Converts what the standard encoder does not know: NumPy scalars, and mappings and sequences of other types."""
    if isinstance(value, numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else _finite(float(value))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"an event holds a {type(value).__name__}, which JSON cannot express")


def _finite(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case str():
            return value
        case Mapping():
            return {str(key): _finite(item) for key, item in value.items()}
        case Sequence():
            return [_finite(item) for item in value]
        case _:
            return value


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of a log."""

    time_s: float
    """Unix time at which the event was written."""
    rank: int
    event: Event


def read_log(run_dir: Path, rank: int = 0) -> list[Record]:
    """Everything that a rank has logged over all restarts, in order; empty if it has no log.

    A warning counts lines that are cut short and events that this version does not know.
    """
    path = log_path(run_dir, rank)
    if not path.is_file():
        return []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    records, unreadable = [], 0
    for line in lines:
        if not line.strip():
            continue
        record = _parse(line)
        if record is None:
            unreadable += 1
        else:
            records.append(record)
    if unreadable:
        logger.warning("%s: ignored lines that are cut short or of an unknown kind: %d", path, unreadable)
    return records


def read_events(run_dir: Path, rank: int = 0) -> list[Record]:
    """A rank's events; of steps that a restart repeated, only the last version is kept."""
    return without_superseded(read_log(run_dir, rank))


def logged_ranks(run_dir: Path) -> list[int]:
    """The ranks that have a log, in order."""
    others = [path.stem.removeprefix("events-rank") for path in run_dir.glob("events-rank*.jsonl")]
    ranks = [int(name) for name in others if name.isdecimal()]
    return sorted([*([0] if log_path(run_dir, 0).is_file() else []), *ranks])


def without_superseded(records: Iterable[Record]) -> list[Record]:
    """The records without those of steps that a later start repeats: the steps after the one that it resumed from.

    Starts and ends of processes are kept, and so are bad samples and shards, because they stay bad.
    """
    kept: list[Record] = []
    for record in records:
        if isinstance(record.event, RunStarted):
            resumed_at = record.event.step
            kept = [old for old in kept if _is_kept(old.event, resumed_at)]
        kept.append(record)
    return kept


def _is_kept(event: Event, resumed_at: int) -> bool:
    return isinstance(event, RunStarted | RunEnded | BadSampleFound | BadShardFound) or event.step <= resumed_at


@dataclass(frozen=True, kw_only=True)
class _Line:
    """The fields that every line has, whatever its event."""

    event: str
    time_s: float
    rank: int


def _parse(line: bytes) -> Record | None:
    """The record of a line; None if the line is cut short, of an unknown kind, or lacks a field that its kind needs.

    Fields that this version does not know are ignored. Fields that an earlier version did not write get their default.
    """
    try:
        document = msgspec.json.decode(line)
        head = msgspec.convert(document, _Line)
        # Not strict: this also reads "NaN" and "Infinity" as numbers.
        event = msgspec.convert(document, _KINDS[head.event], strict=False)
    except (msgspec.MsgspecError, KeyError, RecursionError):
        return None
    return Record(time_s=head.time_s, rank=head.rank, event=event)
