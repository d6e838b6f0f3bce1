"""How a run spent its wall time, over all its restarts, computed from rank 0's log."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dist_seg.telemetry.events import CheckpointSaved, EvalDone, Event, RunEnded, RunStarted, StepDone
from dist_seg.telemetry.jsonl import Record

TRAINING = ("forward", "backward", "optimizer")
"""The parts that count as training in the goodput."""
PARTS = (*TRAINING, "data_wait", "checkpoint", "evaluation", "startup", "other", "lost", "down")
"""lost: steps that a restart had to repeat. down: from the last event of a killed process to the start of the next."""


@dataclass(frozen=True, kw_only=True)
class TimeAccount:
    """Seconds by part (`PARTS`), which add up to `wall_s`. Pauses after a process that was not killed do not count."""

    seconds: Mapping[str, float]
    wall_s: float
    goodput: float
    """Training time of the steps that were not repeated, divided by wall time; 0 for an empty log."""
    starts: int
    """Number of processes that rank 0 has had."""
    outcome: str
    """How the last process ended: complete, preempted, failed, or unknown if it was killed or is still running."""
    reason: str = ""


class ProcessAccount:
    """Adds up the time of one process from its events."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def emit(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._seconds["startup"] += event.startup_s
            case StepDone():
                for part, value in _step_parts(event).items():
                    self._seconds[part] += value
            case EvalDone():
                self._seconds["evaluation"] += event.eval_s
            case CheckpointSaved():
                self._seconds["checkpoint"] += event.stall_s
            case _:
                pass

    def seconds(self, wall_s: float) -> dict[str, float]:
        """Seconds by part. Time that no event accounts for is `other`, so the parts add up to `wall_s`."""
        unexplained_s = max(0.0, wall_s - sum(self._seconds.values()))
        return {**self._seconds, "other": self._seconds["other"] + unexplained_s}


@dataclass
class _Process:
    """The log of one process of the run."""

    started: Record
    records: list[Record] = field(default_factory=list)

    @property
    def ended(self) -> RunEnded | None:
        last = self.records[-1].event if self.records else None
        return last if isinstance(last, RunEnded) else None


def time_account(records: Sequence[Record]) -> TimeAccount:
    """The account of a whole log (`read_log`, including repeated steps)."""
    processes: list[_Process] = []
    for record in records:
        if isinstance(record.event, RunStarted):
            processes.append(_Process(started=record))
        elif processes:
            processes[-1].records.append(record)
    total = dict.fromkeys(PARTS, 0.0)
    resumed_at = float("inf")  # the lowest step that a later process resumed from
    total["down"] = sum(_down_s(before, after) for before, after in itertools.pairwise(processes))
    for process in reversed(processes):
        for part, seconds in _process_seconds(process, resumed_at).items():
            total[part] += seconds
        assert isinstance(process.started.event, RunStarted)
        resumed_at = min(resumed_at, process.started.event.step)
    wall_s = sum(total.values())
    ended = processes[-1].ended if processes else None
    return TimeAccount(
        seconds=total,
        wall_s=wall_s,
        goodput=sum(total[part] for part in TRAINING) / wall_s if wall_s > 0 else 0.0,
        starts=len(processes),
        outcome=ended.outcome if ended else "unknown",
        reason=ended.reason if ended else "",
    )


def _process_seconds(process: _Process, resumed_at: float) -> dict[str, float]:
    """Seconds of one process by part. Training steps after `resumed_at` are `lost`."""
    seconds = dict.fromkeys(PARTS, 0.0)
    if process.ended:
        for part, value in process.ended.seconds.items():
            seconds[part if part in seconds else "other"] += value
    else:
        seconds |= _seconds_from_events(process)
    for record in process.records:
        if isinstance(record.event, StepDone) and record.event.step > resumed_at:
            for part, value in _step_parts(record.event).items():
                taken = min(value, seconds[part])
                seconds[part] -= taken
                seconds["lost"] += taken
    return seconds


def _down_s(before: _Process, after: _Process) -> float:
    """Seconds between a killed process and the start of the next one; 0 after a process that was not killed."""
    assert isinstance(after.started.event, RunStarted)
    last_event = before.records[-1] if before.records else before.started
    return 0.0 if before.ended else max(0.0, after.started.time_s - after.started.event.startup_s - last_event.time_s)


def _seconds_from_events(process: _Process) -> dict[str, float]:
    """The account of a process that was killed before it wrote its own."""
    account = ProcessAccount()
    for record in (process.started, *process.records):
        account.emit(record.event)
    assert isinstance(process.started.event, RunStarted)
    last_s = process.records[-1].time_s if process.records else process.started.time_s
    return account.seconds(process.started.event.startup_s + last_s - process.started.time_s)


def _step_parts(step: StepDone) -> dict[str, float]:
    known_s = step.data_wait_s + step.forward_s + step.backward_s + step.optimizer_s
    return {
        "data_wait": step.data_wait_s,
        "forward": step.forward_s,
        "backward": step.backward_s,
        "optimizer": step.optimizer_s,
        "other": max(0.0, step.step_s - known_s),
    }
