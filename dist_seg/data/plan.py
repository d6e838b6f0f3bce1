"""Which samples make up which micro-batch: a pure function of the data, the seed and the step.

An epoch's shards are shuffled and laid end to end into one virtual stream. The stream is permuted inside blocks of
about `shuffle_window` samples and cut into `lanes` equal contiguous spans; lane m feeds micro-batch m of every step.
Nothing here knows the number of processes, and any step is found without the steps before it.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.errors import ConfigError
from dist_seg.runtime.streams import generator, keyed_permutation

_MOST_AT_ONCE = 1 << 16
"""Candidates that are drawn together."""


@dataclass(frozen=True, kw_only=True)
class PlannedSample:
    """A place in the data: sample `index` of shard `shard` (a position in the split's list of shards)."""

    shard: int
    index: int
    slot: int
    """The place in the epoch's stream that the sample was planned for."""


@dataclass(frozen=True, kw_only=True)
class _Epoch:
    shards: NDArray[np.int64]
    """Shards in this epoch's order."""
    ends: NDArray[np.int64]
    """Cumulative sample counts in that order."""


class TrainPlan:
    """The samples of every training step.

    Within an epoch no sample comes twice, and all but fewer than `global_batch` come once. Raises ConfigError where
    the split has fewer samples than one global batch, or the batch does not divide into micro-batches.
    """

    def __init__(
        self, shard_samples: Sequence[int], *, seed: int, global_batch: int, micro_batch: int, shuffle_window: int
    ) -> None:
        if micro_batch < 1 or global_batch < 1 or global_batch % micro_batch:
            raise ConfigError(
                f"train.global_batch={global_batch} is not a multiple of train.micro_batch={micro_batch}; "
                f"choose {max(1, global_batch // max(1, micro_batch)) * max(1, micro_batch)}"
            )
        if shuffle_window < 1:
            raise ConfigError(f"data.shuffle_window={shuffle_window}: must be at least 1")
        self._shard_samples = np.asarray(shard_samples, dtype=np.int64)
        self.num_samples = int(self._shard_samples.sum())
        self.steps_per_epoch = self.num_samples // global_batch
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"train.global_batch={global_batch} is larger than the training split of {self.num_samples} samples; "
                "choose a smaller batch"
            )
        self.lanes = global_batch // micro_batch
        self.global_batch = global_batch
        self.micro_batch = micro_batch
        self._seed = seed
        self._num_blocks = -(-self.num_samples // shuffle_window)
        self._epochs: dict[int, _Epoch] = {}

    def epoch_of(self, step: int) -> int:
        """The epoch of a step, both counted from 0."""
        return step // self.steps_per_epoch

    def micro_batch_at(self, step: int, lane: int) -> list[PlannedSample]:
        """The samples of micro-batch `lane` of step `step`, in order."""
        return self.micro_batches_at(step, range(lane, lane + 1))[0]

    def micro_batches_at(self, step: int, lanes: range) -> list[list[PlannedSample]]:
        """The micro-batches of some lanes at step `step`; `range(plan.lanes)` gives the whole global batch."""
        if lanes and not (lanes[0] >= 0 and lanes[-1] < self.lanes):
            raise IndexError(f"lanes {lanes} of {self.lanes}")
        epoch, in_epoch = divmod(step, self.steps_per_epoch)
        firsts = (np.asarray(lanes, dtype=np.int64) * self.steps_per_epoch + in_epoch) * self.micro_batch
        slots = (firsts[:, None] + np.arange(self.micro_batch)).reshape(-1)
        samples = self._locate(epoch, slots)
        return [samples[i : i + self.micro_batch] for i in range(0, len(samples), self.micro_batch)]

    def replacement(self, step: int, slot: int, attempt: int) -> PlannedSample:
        """The candidate number `attempt` (from 1) for a slot whose sample is bad.

        First the other samples of the same lane's span, each once, then those of the whole epoch; beyond that they come
        again. Only a split of one sample gives that sample itself.
        """
        return self._replacements(step, slot, range(attempt, attempt + 1))[0]

    def next_outside(
        self, step: int, planned: PlannedSample, attempt: int, bad_shards: AbstractSet[int]
    ) -> tuple[int, PlannedSample] | None:
        """The first candidate, and its number, from `attempt` on that lies in none of some shards; None if all do.

        Number 0 is the planned sample itself. Passing bad shards over so gives the samples that rejecting theirs one by
        one would.
        """
        if attempt == 0:
            if planned.shard not in bad_shards:
                return 0, planned
            attempt = 1
        first, end, count = attempt, attempt + max(1, self.num_samples - 1), 1
        while first < end:
            attempts = range(first, min(first + count, end))
            for number, candidate in zip(attempts, self._replacements(step, planned.slot, attempts), strict=True):
                if candidate.shard not in bad_shards:
                    return number, candidate
            first, count = attempts.stop, min(4 * count, _MOST_AT_ONCE)  # a lane's whole span may lie in a bad shard
        return None

    def _replacements(self, step: int, slot: int, attempts: range) -> list[PlannedSample]:
        epoch = self.epoch_of(step)
        candidates = self._locate(epoch, self._replacing_slots(epoch, slot, np.asarray(attempts, dtype=np.int64)))
        return [PlannedSample(shard=found.shard, index=found.index, slot=slot) for found in candidates]

    def _replacing_slots(self, epoch: int, slot: int, attempts: NDArray[np.int64]) -> NDArray[np.int64]:
        span = self.steps_per_epoch * self.micro_batch
        first = slot // span * span
        others, elsewhere = span - 1, self.num_samples - span
        if others + elsewhere == 0:
            return np.full_like(attempts, slot)
        numbers = (attempts - 1) % (others + elsewhere)
        near, slots = numbers < others, np.empty_like(numbers)
        key = ("replacement", self._seed, epoch, slot)
        if near.any():
            drawn = first + keyed_permutation(numbers[near], others, *key)
            slots[near] = drawn + (drawn >= slot)  # past the slot itself
        if not near.all():
            drawn = keyed_permutation(numbers[~near] - others, elsewhere, *key, "elsewhere")
            slots[~near] = drawn + np.where(drawn >= first, span, 0)  # past the span
        return slots

    def _epoch(self, epoch: int) -> _Epoch:
        layout = self._epochs.get(epoch)
        if layout is None:
            shards = generator("shards", self._seed, epoch).permutation(len(self._shard_samples))
            # Replaced, not changed: threads read it. Two epochs are needed while a loader reads across their border.
            kept = {number: layout for number, layout in self._epochs.items() if abs(number - epoch) == 1}
            layout = _Epoch(shards=shards, ends=np.cumsum(self._shard_samples[shards]))
            self._epochs = {**kept, epoch: layout}
        return layout

    def _locate(self, epoch: int, slots: NDArray[np.int64]) -> list[PlannedSample]:
        layout = self._epoch(epoch)
        # Blocks differ by at most one sample, so that no short last block is left nearly unshuffled.
        blocks = ((slots + 1) * self._num_blocks - 1) // self.num_samples
        begins = blocks * self.num_samples // self._num_blocks
        sizes = (blocks + 1) * self.num_samples // self._num_blocks - begins
        positions = begins + keyed_permutation(slots - begins, sizes, "block", self._seed, epoch, tweaks=blocks)
        order = np.searchsorted(layout.ends, positions, side="right")
        shards = layout.shards[order]
        indices = positions - (layout.ends[order] - self._shard_samples[shards])
        return [
            PlannedSample(shard=shard, index=index, slot=slot)
            for shard, index, slot in zip(shards.tolist(), indices.tolist(), slots.tolist(), strict=True)
        ]


class EvalPlan:
    """Every sample of a split once, in the order of the shards, in batches whose make-up no rank count changes.

    Convolutions may differ in their last bit with the batch's size, so ranks share out whole batches.
    """

    def __init__(self, shard_samples: Sequence[int], *, batch: int) -> None:
        if batch < 1:
            raise ConfigError(f"eval.batch={batch}: must be at least 1")
        self._ends = np.cumsum(np.asarray(shard_samples, dtype=np.int64))
        self._batch = batch
        self.num_samples = int(self._ends[-1]) if len(self._ends) else 0
        self.num_batches = -(-self.num_samples // batch)

    def batch(self, number: int) -> list[PlannedSample]:
        """The samples of batch `number`; the last one may be shorter."""
        slots = range(number * self._batch, min((number + 1) * self._batch, self.num_samples))
        samples = []
        for slot in slots:
            shard = int(np.searchsorted(self._ends, slot, side="right"))
            begin = int(self._ends[shard - 1]) if shard else 0
            samples.append(PlannedSample(shard=shard, index=slot - begin, slot=slot))
        return samples

    def of_rank(self, rank: int, world_size: int) -> range:
        """The contiguous batches of a rank; empty for some where there are fewer batches than ranks."""
        return range(rank * self.num_batches // world_size, (rank + 1) * self.num_batches // world_size)


def lanes_of_rank(lanes: int, rank: int, world_size: int) -> range:
    """The whole, neighbouring lanes that a rank feeds; counts differ by at most one."""
    return range(rank * lanes // world_size, (rank + 1) * lanes // world_size)
