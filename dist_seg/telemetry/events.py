"""What happens in a run, as typed events; sinks turn them into a log, metrics, a progress bar or curves.

Every event is emitted on every rank unless its docstring says otherwise. Times are seconds.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """Before the first step of this process."""

    step: int
    """Steps already trained (0, or the step of the checkpoint taken up)."""
    max_steps: int
    steps_per_epoch: int
    world_size: int
    global_batch: int
    micro_batch: int
    device: str
    class_names: tuple[str, ...]
    manifest_hash: str
    versions: Mapping[str, str]
    startup_s: float
    engine: str = "ddp"
    """With the ZeRO stage, where there is one: `deepspeed, ZeRO-2`."""
    startup: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part, in order, that sum to `startup_s`: interpreter, imports, settings (configuration, manifest,
    checks), process_group, outputs (run folder, sinks), restore (finding, reading and taking up a checkpoint), model,
    engine (with its warm-up), other."""


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One optimiser step. Losses are the means over all lanes of all ranks; times are this rank's."""

    step: int
    """Steps trained so far, this one included."""
    epoch: int
    loss: float
    parts: Mapping[str, float]
    lr: float
    grad_norm: float
    skipped: bool
    """The step was left out because loss or gradient were not finite."""
    samples: int
    """Of this rank."""
    step_s: float
    data_wait_s: float
    forward_s: float
    backward_s: float
    optimizer_s: float
    replaced: int = 0
    """Samples of this rank that came in the place of ones from bad shards."""


@dataclass(frozen=True, kw_only=True)
class BadShardFound:
    """The samples of a training shard are replaced from here on; on rank 0 only, for each one at every start again."""

    step: int
    shard: str
    reason: str
    samples: int
    """That it should hold."""


@dataclass(frozen=True, kw_only=True)
class BadSampleFound:
    """A sample could not be decoded; only on the rank that met it."""

    step: int
    key: str
    shard: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class NonFiniteStep:
    """A step was skipped; `keys` are the samples of this rank's part of the batch."""

    step: int
    loss: float
    grad_norm: float
    keys: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class EvalDone:
    """A whole evaluation; the same numbers on every rank."""

    step: int
    split: str
    weights: str
    metrics: Mapping[str, float]
    images: int
    eval_s: float
    score_name: str = "miou"
    """Which of the metrics tells the best checkpoint."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    """A checkpoint is whole on storage; on rank 0 only."""

    step: int
    path: str
    stall_s: float
    """What the training loop waited for it."""
    write_s: float
    engine: str = "ddp"
    """Whose state was copied."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFailed:
    """A checkpoint, or the score of one, could not be written; earlier ones are whole. On rank 0 only."""

    step: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class CheckpointIntervalChosen:
    """With `checkpoint.interval_steps: auto`, after every save whose cost is known; on rank 0 only."""

    step: int
    interval_s: float
    """Of training between two saves."""
    cost_s: float
    """Of a save: its stall, and what it slowed down the steps beside it; the mean of the last few."""


@dataclass(frozen=True, kw_only=True)
class DigestTaken:
    """What `dist-seg audit` compares; `batch` does not depend on the number of ranks."""

    step: int
    batch: str
    weights: str


@dataclass(frozen=True, kw_only=True)
class RankTimes:
    """Every rank's own seconds for a micro-batch, by rank, without what it waited for others; on rank 0 only.

    They are means over the steps since the last such event.
    """

    step: int
    data_wait_s: Sequence[float]
    forward_s: Sequence[float]
    backward_s: Sequence[float]
    """Of all micro-batches of a step but its last one, which waits for the other ranks; 0 where a rank has no other."""

    @property
    def by_part(self) -> Mapping[str, Sequence[float]]:
        return {"data_wait": self.data_wait_s, "forward": self.forward_s, "backward": self.backward_s}

    @property
    def own_s(self) -> Sequence[float]:
        """The parts together, by rank."""
        return [sum(parts) for parts in zip(*self.by_part.values(), strict=True)]

    @property
    def straggler_ratio(self) -> float:
        """The slowest rank's time over the median; of an even number of ranks, over the lower one of the middle two."""
        return max(self.own_s) / max(statistics.median_low(self.own_s), 1e-9)


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """The end of this process's part of the run. outcome: complete, preempted or failed."""

    step: int
    outcome: str
    reason: str
    wall_s: float
    seconds: Mapping[str, float]
    """Wall time by what it went to: startup, data_wait, forward, backward, optimizer, checkpoint, evaluation, other."""


Event = (
    RunStarted
    | StepDone
    | BadSampleFound
    | BadShardFound
    | NonFiniteStep
    | EvalDone
    | CheckpointSaved
    | CheckpointFailed
    | CheckpointIntervalChosen
    | DigestTaken
    | RankTimes
    | RunEnded
)


@runtime_checkable
class Sink(Protocol):
    """Receives every event of its rank, in order."""

    def emit(self, event: Event) -> None: ...

    def close(self) -> None: ...
