"""Several streams of samples mixed by weight: data sets, or the classes that samples hold. A pure function, as all
plans.

A lane's stream is cut into blocks of `BLOCK` samples, in which every part has its share, in an order of the block's
own. A part has epochs of its own, in each of which every sample comes exactly once in one of the lanes. The lanes take
turns: draw t of a part in lane m is number t * lanes + m of all, whose every `num_samples` make up an epoch. So after
whole blocks no sample has come more than once more often than another of its part. In between a lane may be some draws
ahead of another (see `_block`), and be in a part's next epoch before the other has ended the last.
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
"""Divisible by all numbers up to 10: such shares are exact."""


@dataclass(frozen=True, kw_only=True)
class MixedPart:
    """What is mixed with others."""

    name: str
    shard_samples: Sequence[int] | NDArray[np.integer]
    """How many of its samples every shard of the split holds; one at least in all."""
    weight: float
    holding: int | None = None
    """Of a class: its id. A shard's samples are then those that hold it."""


class MixedPlan:
    """A `Plan` of parts. What is bad is replaced by others of the same part, then by whatever there is.

    shard_samples: of the split, whatever part they belong to. Raises ConfigError as `TrainPlan`.
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
        # Of the parts no more is kept: a part's samples by shard are as many numbers as there are shards.
        self._names, self._holding = [part.name for part in parts], [part.holding for part in parts]
        self._shard_ends = np.cumsum(shard_samples)
        self._streams = [
            SampleStream(part.shard_samples, seed=seed, shuffle_window=shuffle_window, name=part.name) for part in parts
        ]
        self._quotas = np.array(block_shares([part.weight for part in parts]), dtype=np.int64)
        self._blocks: dict[tuple[int, int], _Block] = {}

    @property
    def shares(self) -> dict[str, float]:
        """The part of all samples that each part's make up, by name."""
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
        """Which part a place in a lane's stream is, and how many of that part the lane has had before."""
        number, in_block = divmod(place, BLOCK)
        block = self._blocks.get((lane, number))
        if block is None:
            block = _block(self._quotas, "mix", self._seed, lane, number)
            # Replaced, not changed: threads read it. Two blocks are needed while a loader reads across their border.
            kept = {key: block for key, block in self._blocks.items() if abs(key[1] - number) <= 1}
            self._blocks = {**kept, (lane, number): block}
        part = int(block.parts[in_block])
        return part, number * int(self._quotas[part]) + int(block.ranks[in_block])

    def _of_part(self, part: int, lanes: NDArray[np.int64], taken: NDArray[np.int64]) -> list[PlannedSample]:
        """The samples of a part that come as the `taken`-th ones of it in their lanes."""
        num_samples = self._streams[part].num_samples
        epochs, drawn = np.divmod(taken * self.lanes + lanes, num_samples)
        # What one lane draws lies together: in few shards, where there are many. `begin` lanes' turns come before its.
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
                # A sample may come by way of several classes.
                visit=epoch * len(self._names) + part,
                stream=part,
                holding=self._holding[part],
            )
            for shard, index, slot in zip(shards.tolist(), indices.tolist(), slots.tolist(), strict=True)
        ]

    def _span(self, part: int, slot: int) -> range:
        """Of a part's epoch the places of the lane that a slot is drawn in; the longer spans, by one, come first."""
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
    """(BLOCK,) which part comes at each place."""
    ranks: NDArray[np.int16]
    """(BLOCK,) how many of the same part come before, in the block."""


def _block(quotas: NDArray[np.int64], *key: int | str) -> _Block:
    """So many of each part in an order that the key names, each part evenly spread: its k-th sample comes at a random
    time in the k-th of as many equal stretches of the block as it has samples.

    So at any place a part has come as often as its share of the places before, to less than 1 + number of parts *
    share. An order without stretches would be as fair at its end, but lanes would be apart by whole epochs of a small
    part before.
    """
    parts = np.repeat(np.arange(len(quotas)), quotas)
    ranks = np.arange(BLOCK) - np.repeat(np.cumsum(quotas) - quotas, quotas)
    order = np.argsort((ranks + generator(*key).random(BLOCK)) / quotas[parts], kind="stable")
    return _Block(parts=parts[order].astype(np.int16), ranks=ranks[order].astype(np.int16))


def block_shares(weights: Sequence[float], block: int = BLOCK) -> list[int]:
    """`block` divided by weight, by largest remainders, with 1 at least for each."""
    exact = [Fraction(str(weight)) for weight in weights]
    parts = [share * block / sum(exact) for share in exact]
    shares = [max(1, int(part)) for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda i: (shares[i] - parts[i], i))
    while (missing := block - sum(shares)) > 0:
        for i in by_remainder[:missing]:
            shares[i] += 1
    while (over := sum(shares) - block) > 0:  # the ones that no weight stands for are the largest part's to give
        largest = max(range(len(shares)), key=lambda i: shares[i])
        shares[largest] -= min(over, shares[largest] - 1)
    return shares
