"""The log of a run: every event as one line of strict JSON, and the reader of it.

`events.jsonl` is rank 0's, `events-rank3.jsonl` rank 3's. A line is an event's fields with `event` (its name),
`time_s` (Unix time) and `rank`. JSON knows no NaN and no infinities: such a number stands as one of the strings "NaN",
"Infinity" and "-Infinity", and the reader turns it back. A restart appends. A line that a kill cut short is left behind
as it is.
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
    """Where a rank's events lie."""
    return run_dir / ("events.jsonl" if rank == 0 else f"events-rank{rank}.jsonl")


class JsonLinesSink:
    """Appends a rank's events to its log, each flushed to the operating system before `emit` returns.

    Raises UserError where the log cannot be opened.
    """

    def __init__(self, run_dir: Path, *, rank: int, log_interval_steps: int = 1) -> None:
        self._rank = rank
        self._interval_steps = log_interval_steps
        path = log_path(run_dir, rank)
        with path_errors(path):
            run_dir.mkdir(parents=True, exist_ok=True)
            self._file = _open_for_append(path)

    def emit(self, event: Event) -> None:
        """Steps between two of the log's interval are left out, unless they were skipped by the training."""
        if isinstance(event, StepDone) and not event.skipped and event.step % self._interval_steps:
            return
        record = {"event": type(event).__name__, "time_s": round(time.time(), 3), "rank": self._rank}
        record.update(vars(event))
        self._file.write(_to_json(record) + "\n")

    def close(self) -> None:
        self._file.close()


def _open_for_append(path: Path) -> TextIOWrapper:
    """The log, at the start of a line whatever a kill has left at its end."""
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
    except ValueError:  # the rare record with a number that JSON has not
        return json.dumps(_finite(record), allow_nan=False, separators=(", ", ": "))


def _as_plain(value: object) -> object:
    """What the standard encoder does not know: NumPy's scalars, mappings and sequences of other types than its own."""
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
    """Everything that a rank has logged, over all restarts, in order; empty where it has no log.

    Lines that a kill cut short, and events of a kind that this version does not know, are counted in a warning.
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
        logger.warning("%s: lines that are cut short or unknown and were left out: %d", path, unreadable)
    return records


def read_events(run_dir: Path, rank: int = 0) -> list[Record]:
    """A rank's events as they count: what a restart did again stands once, in its last version."""
    return without_superseded(read_log(run_dir, rank))


def logged_ranks(run_dir: Path) -> list[int]:
    """The ranks that have left a log, in order."""
    others = [path.stem.removeprefix("events-rank") for path in run_dir.glob("events-rank*.jsonl")]
    ranks = [int(name) for name in others if name.isdecimal()]
    return sorted([*([0] if log_path(run_dir, 0).is_file() else []), *ranks])


def without_superseded(records: Iterable[Record]) -> list[Record]:
    """Drop what lies after the step that a later start took up: those steps are done again, or will be.

    Starts and ends of processes stay, and so do bad samples and shards: finding one again is no reason to forget it.
    """
    kept: list[Record] = []
    for record in records:
        if isinstance(record.event, RunStarted):
            resumed_at = record.event.step
            kept = [old for old in kept if _stands(old.event, resumed_at)]
        kept.append(record)
    return kept


def _stands(event: Event, resumed_at: int) -> bool:
    return isinstance(event, RunStarted | RunEnded | BadSampleFound | BadShardFound) or event.step <= resumed_at


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What every line holds beside its event's fields."""

    event: str
    time_s: float
    rank: int


def _parse(line: bytes) -> Record | None:
    """One line; None for one that is cut short, of an unknown kind or without a field that its kind needs.

    Fields that this version does not know are ignored, and those that an earlier version lacked take their defaults.
    """
    try:
        document = msgspec.json.decode(line)
        head = msgspec.convert(document, _Line)
        # Not strict, which also reads the strings that numbers which are not finite are written as.
        event = msgspec.convert(document, _KINDS[head.event], strict=False)
    except (msgspec.MsgspecError, KeyError, RecursionError):
        return None
    return Record(time_s=head.time_s, rank=head.rank, event=event)
