"""Which samples make up which micro-batch: a pure function of the data, the seed and the step.

An epoch's stream of samples is cut into `lanes` equal contiguous spans. Lane m feeds micro-batch m of every step. The
plan does not depend on the number of processes, and any step is found without the steps before it.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.plan.sample_stream import SampleStream
from dist_seg.data.shards.counts import locate_samples
from dist_seg.errors import ConfigError

_MOST_AT_ONCE = 1 << 16
"""Candidates drawn at once."""


@dataclass(frozen=True, kw_only=True)
class PlannedSample:
    """Sample `index` of shard `shard` (a position in the split's list of shards)."""

    shard: int
    index: int
    slot: int
    """The place in the epoch's stream that the sample fills."""
    visit: int = 0
    """Distinguishes repeated uses of a sample, each of which is augmented differently. In a `TrainPlan`: the epoch."""
    stream: int = 0
    """The part of a mix that the sample comes from."""
    holding: int | None = None
    """A class id: `index` then counts only the samples of the shard that hold the class."""


class Plan(Protocol):
    """The samples of every training step."""

    @property
    def num_samples(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def lanes(self) -> int: ...

    @property
    def global_batch(self) -> int: ...

    @property
    def micro_batch(self) -> int: ...

    def micro_batches_at(self, step: int, lanes: range) -> list[list[PlannedSample]]:
        """The micro-batches of some lanes at step `step`; `range(plan.lanes)` gives the whole global batch."""
        ...

    def next_outside(
        self, planned: PlannedSample, attempt: int, bad_shards: AbstractSet[int]
    ) -> tuple[int, PlannedSample] | None:
        """The first candidate for a sample's slot that is not in a bad shard, and its number; None if there is none.

        Looks from candidate number `attempt` on; number 0 is the planned sample itself. The result is the same as if
        the samples of bad shards were rejected one by one.
        """
        ...


def micro_batch_at(plan: Plan, step: int, lane: int) -> list[PlannedSample]:
    """The samples of micro-batch `lane` of step `step`, in order."""
    return plan.micro_batches_at(step, range(lane, lane + 1))[0]


class TrainPlan:
    """A `Plan` in which all samples come equally often.

    In an epoch no sample comes twice, and fewer than `global_batch` samples do not come at all. Raises ConfigError if
    the split has fewer samples than one global batch, or the batch does not divide into micro-batches.
    """

    def __init__(
        self, shard_samples: Sequence[int], *, seed: int, global_batch: int, micro_batch: int, shuffle_window: int
    ) -> None:
        check_batches(sum(shard_samples), global_batch, micro_batch, shuffle_window)
        self._stream = SampleStream(shard_samples, seed=seed, shuffle_window=shuffle_window)
        self.num_samples = self._stream.num_samples
        self.steps_per_epoch = self.num_samples // global_batch
        self.lanes = global_batch // micro_batch
        self.global_batch = global_batch
        self.micro_batch = micro_batch

    def micro_batches_at(self, step: int, lanes: range) -> list[list[PlannedSample]]:
        check_lanes_exist(lanes, self.lanes)
        epoch, in_epoch = divmod(step, self.steps_per_epoch)
        firsts = (np.asarray(lanes, dtype=np.int64) * self.steps_per_epoch + in_epoch) * self.micro_batch
        slots = (firsts[:, None] + np.arange(self.micro_batch)).reshape(-1)
        return in_micro_batches(self._located(epoch, slots, slots), self.micro_batch)

    def next_outside(
        self, planned: PlannedSample, attempt: int, bad_shards: AbstractSet[int]
    ) -> tuple[int, PlannedSample] | None:
        def replacements(attempts: range) -> list[PlannedSample]:
            return self._replacements(planned.visit, planned.slot, attempts)

        return first_outside(planned, attempt, bad_shards, replacements, self.num_samples - 1)

    def _replacements(self, epoch: int, slot: int, attempts: range) -> list[PlannedSample]:
        length = self.steps_per_epoch * self.micro_batch
        first = slot // length * length
        numbers = np.asarray(attempts, dtype=np.int64)
        found = self._stream.replacing(epoch, slot, numbers, range(first, first + length))
        return self._located(epoch, found, np.full_like(found, slot))

    def _located(self, epoch: int, places: NDArray[np.int64], slots: NDArray[np.int64]) -> list[PlannedSample]:
        shards, indices = self._stream.locate(epoch, places)
        return [
            PlannedSample(shard=shard, index=index, slot=slot, visit=epoch)
            for shard, index, slot in zip(shards.tolist(), indices.tolist(), slots.tolist(), strict=True)
        ]


def check_batches(num_samples: int, global_batch: int, micro_batch: int, shuffle_window: int) -> None:
    """Raises ConfigError for batches that cannot be made from `num_samples` samples."""
    if micro_batch < 1 or global_batch < 1 or global_batch % micro_batch:
        raise ConfigError(
            f"train.global_batch={global_batch} is not a multiple of train.micro_batch={micro_batch}; "
            f"choose {max(1, global_batch // max(1, micro_batch)) * max(1, micro_batch)}"
        )
    if shuffle_window < 1:
        raise ConfigError(f"data.shuffle_window={shuffle_window}: must be at least 1")
    if num_samples < global_batch:
        raise ConfigError(
            f"train.global_batch={global_batch} is larger than the training split of {num_samples} samples; "
            "choose a smaller batch"
        )


def check_lanes_exist(lanes: range, number: int) -> None:
    """Raises IndexError for lanes beyond `number`."""
    if lanes and not (lanes[0] >= 0 and lanes[-1] < number):
        raise IndexError(f"lanes {lanes} of {number}")


def in_micro_batches(samples: list[PlannedSample], micro_batch: int) -> list[list[PlannedSample]]:
    return [samples[i : i + micro_batch] for i in range(0, len(samples), micro_batch)]


def first_outside(
    planned: PlannedSample,
    attempt: int,
    bad_shards: AbstractSet[int],
    replacements: Callable[[range], list[PlannedSample]],
    num_replacements: int,
) -> tuple[int, PlannedSample] | None:
    """See `Plan.next_outside`. replacements: gives candidates by number, from 1 to `num_replacements`."""
    if attempt == 0:
        if planned.shard not in bad_shards:
            return 0, planned
        attempt = 1
    first, end, count = attempt, attempt + max(1, num_replacements), 1
    while first < end:
        attempts = range(first, min(first + count, end))
        for number, candidate in zip(attempts, replacements(attempts), strict=True):
            if candidate.shard not in bad_shards:
                return number, candidate
        first, count = attempts.stop, min(4 * count, _MOST_AT_ONCE)  # the bad shard may hold a lane's whole span
    return None


class EvalPlan:
    """Every sample of a split once, in the order of the shards, in the same batches at any number of ranks.

    Convolutions may differ in their last bit with the size of the batch, so ranks share out whole batches.
    """

    def __init__(self, shard_samples: Sequence[int], *, batch: int) -> None:
        if batch < 1:
            raise ConfigError(f"eval.batch={batch}: must be at least 1")
        self._ends = np.cumsum(np.asarray(shard_samples, dtype=np.int64))
        self._batch = batch
        self.num_samples = int(self._ends[-1]) if len(self._ends) else 0
        self.num_batches = -(-self.num_samples // batch)

    def batch(self, number: int) -> list[PlannedSample]:
        """The samples of batch `number`; the last batch may be shorter."""
        slots = np.arange(number * self._batch, min((number + 1) * self._batch, self.num_samples))
        found = (places.tolist() for places in (*locate_samples(self._ends, slots), slots))
        return [PlannedSample(shard=shard, index=index, slot=slot) for shard, index, slot in zip(*found, strict=True)]

    def of_rank(self, rank: int, world_size: int) -> range:
        """The contiguous batches of a rank; empty for some ranks if there are more ranks than batches."""
        return range(rank * self.num_batches // world_size, (rank + 1) * self.num_batches // world_size)


def lanes_of_rank(lanes: int, rank: int, world_size: int) -> range:
    """The whole, neighbouring lanes that a rank feeds; counts differ by at most one."""
    return range(rank * lanes // world_size, (rank + 1) * lanes // world_size)
