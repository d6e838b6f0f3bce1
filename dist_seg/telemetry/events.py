"""What happens in a run, as typed events; sinks turn them into a log, metrics, a progress bar or curves.

Every event is emitted on every rank unless its docstring says otherwise. Times are seconds.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """Emitted before the first step of this process."""

    step: int
    """Steps already trained: 0, or the step of the checkpoint that the process resumes from."""
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
    """Name of the engine, with its ZeRO stage if it has one: `deepspeed, ZeRO-2`."""
    startup: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part, in order; they add up to `startup_s`. The parts are interpreter, imports, settings
    (configuration, manifest, checks), process_group, outputs (run folder, sinks), restore (finding, reading and loading
    a checkpoint), model, engine (including its warm-up) and other."""


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One optimiser step. Losses are means over all micro-batches of all ranks; times are this rank's."""

    step: int
    """Steps trained so far, including this one."""
    epoch: int
    loss: float
    parts: Mapping[str, float]
    lr: float
    grad_norm: float
    skipped: bool
    """The step was skipped because the loss or the gradient was not finite."""
    samples: int
    """Training samples of this rank."""
    step_s: float
    data_wait_s: float
    forward_s: float
    backward_s: float
    optimizer_s: float
    replaced: int = 0
    """Samples of this rank that replaced samples of bad shards."""


@dataclass(frozen=True, kw_only=True)
class BadShardFound:
    """From here on, the samples of a training shard are replaced. Rank 0 only, and again at every start."""

    step: int
    shard: str
    reason: str
    samples: int
    """Samples that the shard should hold."""


@dataclass(frozen=True, kw_only=True)
class BadSampleFound:
    """A sample could not be decoded. Only on the rank that read it."""

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
    """An evaluation has finished. Every rank has the same numbers."""

    step: int
    split: str
    weights: str
    metrics: Mapping[str, float]
    images: int
    eval_s: float
    score_name: str = "miou"
    """The metric that decides which checkpoint is best."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    """A checkpoint has been committed to storage. Rank 0 only."""

    step: int
    path: str
    stall_s: float
    """Time that the training loop waited for it."""
    write_s: float
    engine: str = "ddp"
    """The engine whose state was saved."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFailed:
    """A checkpoint or its score could not be written. Earlier checkpoints are intact. Rank 0 only."""

    step: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class CheckpointIntervalChosen:
    """With `checkpoint.interval_steps: auto`, after every save whose cost could be measured. Rank 0 only."""

    step: int
    interval_s: float
    """Training time between two saves."""
    cost_s: float
    """Cost of a save, averaged over the last few: its stall, and the time by which it slowed the steps beside it."""


@dataclass(frozen=True, kw_only=True)
class DigestTaken:
    """Digests that `dist-seg audit` compares. `batch` does not depend on the number of ranks."""

    step: int
    batch: str
    weights: str


@dataclass(frozen=True, kw_only=True)
class RankTimes:
    """Every rank's own seconds for a micro-batch, without the time it waited for other ranks. Rank 0 only.

    Each field has one entry per rank: the mean over the steps since the last such event.
    """

    step: int
    data_wait_s: Sequence[float]
    forward_s: Sequence[float]
    backward_s: Sequence[float]
    """Without the last micro-batch of a step, which waits for the other ranks; 0 for a rank that has only one."""

    @property
    def by_part(self) -> Mapping[str, Sequence[float]]:
        return {"data_wait": self.data_wait_s, "forward": self.forward_s, "backward": self.backward_s}

    @property
    def own_s(self) -> Sequence[float]:
        """Sum of the parts, by rank."""
        return [sum(parts) for parts in zip(*self.by_part.values(), strict=True)]

    @property
    def straggler_ratio(self) -> float:
        """Time of the slowest rank divided by the median (for an even number of ranks, the lower of the middle two)."""
        return max(self.own_s) / max(statistics.median_low(self.own_s), 1e-9)


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """This process has ended its part of the run."""

    step: int
    outcome: str
    """complete, preempted or failed."""
    reason: str
    wall_s: float
    seconds: Mapping[str, float]
    """Wall time by part: startup, data_wait, forward, backward, optimizer, checkpoint, evaluation, other."""


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
