"""Mixes several streams of samples by weight: data sets, or the classes that samples hold. A pure function.

A lane's stream is cut into blocks of `BLOCK` samples. In a block every part has its share, in an order of the block's
own. Each part has its own epochs: in one epoch every sample comes exactly once, in one of the lanes. The lanes take
turns: draw t of a part in lane m is draw number t * lanes + m of the part, and every `num_samples` draws make up an
epoch. So after whole blocks, the counts of two samples of a part differ by at most one. Within a block a lane may be
some draws ahead of another (see `_block`), and may start a part's next epoch before the other has finished the last.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.plan.plan import PlannedSample, check_batches, check_lanes_exist, first_outside, in_micro_batches
from dist_seg.data.plan.sample_stream import SampleStream
from dist_seg.data.shards.counts import locate_samples
from dist_seg.runtime.rng import generator, keyed_permutation

BLOCK = 5040
"""Divisible by all numbers up to 10, so that such shares are exact."""


@dataclass(frozen=True, kw_only=True)
class MixedPart:
    """One of the streams of a mix."""

    name: str
    shard_samples: Sequence[int] | NDArray[np.integer]
    """Number of the part's samples in every shard of the split; at least one sample in total."""
    weight: float
    holding: int | None = None
    """Class id if the part is a class: its samples are then the samples that hold the class."""


class MixedPlan:
    """A `Plan` of parts. A bad sample is replaced by others of its part first, then by any other sample.

    shard_samples: samples of every shard of the split, of all parts. Raises ConfigError as `TrainPlan` does.
    """

    def __init__(
        self,
        parts: Sequence[MixedPart],
        shard_samples: Sequence[int],
        *,
        seed: int,
        global_batch: int,
        micro_batch: int,
        shuffle_window: int,
    ) -> None:
        self.num_samples = sum(shard_samples)
        check_batches(self.num_samples, global_batch, micro_batch, shuffle_window)
        self.steps_per_epoch = self.num_samples // global_batch
        self.lanes = global_batch // micro_batch
        self.global_batch = global_batch
        self.micro_batch = micro_batch
        self._seed = seed
        # The parts themselves are not kept: each holds a number for every shard.
        self._names, self._holding = [part.name for part in parts], [part.holding for part in parts]
        self._shard_ends = np.cumsum(shard_samples)
        self._streams = [
            SampleStream(part.shard_samples, seed=seed, shuffle_window=shuffle_window, name=part.name) for part in parts
        ]
        self._quotas = np.array(block_shares([part.weight for part in parts]), dtype=np.int64)
        self._blocks: dict[tuple[int, int], _Block] = {}

    @property
    def shares(self) -> dict[str, float]:
        """The fraction of all samples that come from each part, by name."""
        return {name: int(n) / BLOCK for name, n in zip(self._names, self._quotas, strict=True)}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_blocks": {}}

    def micro_batches_at(self, step: int, lanes: range) -> list[list[PlannedSample]]:
        check_lanes_exist(lanes, self.lanes)
        if not lanes:
            return []
        of_lane = np.repeat(np.asarray(lanes, dtype=np.int64), self.micro_batch)
        first = step * self.micro_batch
        drawn = [self._drawn(lane, place) for lane in lanes for place in range(first, first + self.micro_batch)]
        parts, taken = (np.array(numbers, dtype=np.int64) for numbers in zip(*drawn, strict=True))
        samples: dict[int, PlannedSample] = {}
        for part in np.unique(parts).tolist():
            chosen = np.flatnonzero(parts == part)
            samples |= zip(chosen.tolist(), self._of_part(part, of_lane[chosen], taken[chosen]), strict=True)
        return in_micro_batches([samples[i] for i in range(len(samples))], self.micro_batch)

    def next_outside(
        self, planned: PlannedSample, attempt: int, bad_shards: AbstractSet[int]
    ) -> tuple[int, PlannedSample] | None:
        others = self._streams[planned.stream].num_samples - 1
        return first_outside(
            planned,
            attempt,
            bad_shards,
            lambda attempts: self._replacements(planned, np.asarray(attempts, dtype=np.int64)),
            others + self.num_samples,
        )

    def _drawn(self, lane: int, place: int) -> tuple[int, int]:
        """The part that a place in a lane's stream belongs to, and how often the lane drew from this part before."""
        number, in_block = divmod(place, BLOCK)
        block = self._blocks.get((lane, number))
        if block is None:
            block = _block(self._quotas, "mix", self._seed, lane, number)
            # Replaced, not changed: other threads read it. A loader that reads across a border needs two blocks.
            kept = {key: block for key, block in self._blocks.items() if abs(key[1] - number) <= 1}
            self._blocks = {**kept, (lane, number): block}
        part = int(block.parts[in_block])
        return part, number * int(self._quotas[part]) + int(block.ranks[in_block])

    def _of_part(self, part: int, lanes: NDArray[np.int64], taken: NDArray[np.int64]) -> list[PlannedSample]:
        """The samples of a part for some draws of its lanes. taken: draws of the part in the same lane before."""
        num_samples = self._streams[part].num_samples
        epochs, drawn = np.divmod(taken * self.lanes + lanes, num_samples)
        # One lane's draws are neighbours, so it reads few shards. The draws of `begin` lanes come before its own.
        rounds, begin = np.divmod(drawn, self.lanes)
        slots = begin * (num_samples // self.lanes) + np.minimum(begin, num_samples % self.lanes) + rounds
        found: dict[int, PlannedSample] = {}
        for epoch in np.unique(epochs).tolist():
            chosen = np.flatnonzero(epochs == epoch)
            found |= zip(chosen.tolist(), self._located(part, epoch, slots[chosen], slots[chosen]), strict=True)
        return [found[i] for i in range(len(found))]

    def _replacements(self, planned: PlannedSample, attempts: NDArray[np.int64]) -> list[PlannedSample]:
        part, stream, slot = planned.stream, self._streams[planned.stream], planned.slot
        epoch = planned.visit // len(self._names)
        near = attempts < stream.num_samples
        candidates: list[PlannedSample] = []
        if near.any():
            places = stream.replacing(epoch, slot, attempts[near], self._span(part, slot))
            candidates += self._located(part, epoch, places, np.full_like(places, slot))
        if not near.all():
            key = ("replacement", self._seed, epoch, slot, self._names[part], "any")
            places = keyed_permutation(
                (attempts[~near] - stream.num_samples) % self.num_samples, self.num_samples, *key
            )
            shards, indices = locate_samples(self._shard_ends, places)
            candidates += [
                PlannedSample(shard=shard, index=index, slot=slot, visit=planned.visit, stream=part)
                for shard, index in zip(shards.tolist(), indices.tolist(), strict=True)
            ]
        return candidates

    def _located(
        self, part: int, epoch: int, places: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> list[PlannedSample]:
        shards, indices = self._streams[part].locate(epoch, places)
        return [
            PlannedSample(
                shard=shard,
                index=index,
                slot=slot,
                # A sample may be drawn for several of its classes, each time with another augmentation.
                visit=epoch * len(self._names) + part,
                stream=part,
                holding=self._holding[part],
            )
            for shard, index, slot in zip(shards.tolist(), indices.tolist(), slots.tolist(), strict=True)
        ]

    def _span(self, part: int, slot: int) -> range:
        """The span of a part's epoch that belongs to the lane of a slot. Spans differ by one; the longer come first."""
        length, longer = divmod(self._streams[part].num_samples, self.lanes)
        end_of_longer = longer * (length + 1)
        if slot < end_of_longer:
            first = slot // (length + 1) * (length + 1)
            return range(first, first + length + 1)
        first = end_of_longer + (slot - end_of_longer) // length * length
        return range(first, first + length)


@dataclass(frozen=True, kw_only=True)
class _Block:
    parts: NDArray[np.int16]
    """(BLOCK,) the part at each place."""
    ranks: NDArray[np.int16]
    """(BLOCK,) number of places of the same part before it in the block."""


def _block(quotas: NDArray[np.int64], *key: int | str) -> _Block:
    """An order of the parts, drawn by the key, in which every part is evenly spread: a part with n places divides the
    block into n equal stretches, and its k-th place is at a random time in the k-th stretch.

    So at any place, the count of a part differs from its share of the places before by less than 1 + number of parts *
    share. A plain shuffle would be as fair at the end of a block, but within it lanes could be whole epochs of a small
    part apart.
    """
    parts = np.repeat(np.arange(len(quotas)), quotas)
    ranks = np.arange(BLOCK) - np.repeat(np.cumsum(quotas) - quotas, quotas)
    order = np.argsort((ranks + generator(*key).random(BLOCK)) / quotas[parts], kind="stable")
    return _Block(parts=parts[order].astype(np.int16), ranks=ranks[order].astype(np.int16))


def block_shares(weights: Sequence[float], block: int = BLOCK) -> list[int]:
    """Divides `block` by weight, by largest remainders; each share is at least 1."""
    exact = [Fraction(str(weight)) for weight in weights]
    parts = [share * block / sum(exact) for share in exact]
    shares = [max(1, int(part)) for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda i: (shares[i] - parts[i], i))
    while (missing := block - sum(shares)) > 0:
        for i in by_remainder[:missing]:
            shares[i] += 1
    while (over := sum(shares) - block) > 0:  # the largest part pays for the shares that were raised to 1
        largest = max(range(len(shares)), key=lambda i: shares[i])
        shares[largest] -= min(over, shares[largest] - 1)
    return shares
