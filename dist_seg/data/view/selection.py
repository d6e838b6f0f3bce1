"""Selects samples of a split: one fold, or all folds but one, and a fraction of these.

The selection does not depend on a run's seed. In every shard a permutation, keyed by the shard's name, spreads the
selected samples, so that each part draws evenly from all shards.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dist_seg.runtime.rng import keyed_permutation, seed_of


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Samples divided into `count` folds, of which fold `fold` or all others are chosen."""

    count: int
    fold: int
    held_out: bool
    """Choose the fold itself rather than the others."""
    numbers: tuple[NDArray[np.uint8], ...] | None = None
    """For samples divided by group: the fold of each sample, for every shard."""


class Selection:
    """The chosen samples of a split, in the order of every shard."""

    def __init__(
        self, names: Sequence[str], samples: Sequence[int], *, folds: Folds | None = None, fraction: float = 1.0
    ) -> None:
        """names, samples: of the split's shards. fraction: of the folds' samples; at least one sample is chosen."""
        self._names, self._samples, self._folds, self._fraction = tuple(names), tuple(samples), folds, fraction
        self._begins = [0, *np.cumsum(samples).tolist()][:-1]
        self.counts: tuple[int, ...] = tuple(samples)
        """Number of chosen samples in every shard."""
        if folds is not None:
            self.counts = tuple(self._fold_count(shard, folds) for shard in range(len(samples)))
        if fraction < 1:
            self.counts = shares(names, self.counts, fraction)

    def indices(self, shard: int) -> NDArray[np.int64]:
        """(counts[shard],) the places of a shard's chosen samples, in ascending order."""
        samples, folds = self._samples[shard], self._folds
        order = keyed_permutation(np.arange(samples), samples, "selection", self._names[shard])
        if folds is not None:
            if folds.numbers is None:
                numbers = (self._begins[shard] + np.arange(samples)) % folds.count
            else:
                numbers = folds.numbers[shard][order].astype(np.int64)
            order = order[(numbers == folds.fold) == folds.held_out]
        return np.sort(order[: self.counts[shard]])

    @property
    def identity(self) -> list[object]:
        """JSON-ready: what distinguishes selections of the same shards."""
        identity: list[object] = [self._fraction]
        if self._folds is not None:
            groups = b"".join(part.tobytes() for part in self._folds.numbers or ())
            identity += [self._folds.count, self._folds.fold, self._folds.held_out, hashlib.sha256(groups).hexdigest()]
        return identity

    def _fold_count(self, shard: int, folds: Folds) -> int:
        begin, samples = self._begins[shard], self._samples[shard]
        if folds.numbers is not None:
            of_fold = int(np.count_nonzero(folds.numbers[shard] == folds.fold))
        else:
            before = [(end - folds.fold + folds.count - 1) // folds.count for end in (begin, begin + samples)]
            of_fold = before[1] - before[0]
        return of_fold if folds.held_out else samples - of_fold


def shares(names: Sequence[str], samples: Sequence[int], fraction: float) -> tuple[int, ...]:
    """Number of samples that each shard gives to a fraction of all: in total the fraction, rounded down, at least 1.

    Each shard gives about the same fraction. A larger fraction takes no fewer from any shard: sample p of n in a shard
    has the time (p + u) / n, with an offset u in [0, 1) for each shard, and the earliest samples are taken.
    """
    wanted = max(1, int(Fraction(str(fraction)) * sum(samples)))
    sizes = np.asarray(samples, dtype=np.float64)
    starts = np.array([seed_of("fraction", name) / 2**63 for name in names])

    def taken(time: float) -> NDArray[np.int64]:
        numbers: NDArray[np.float64] = np.clip(np.ceil(time * sizes - starts), 0, sizes)
        return numbers.astype(np.int64)

    early, late = 0.0, 2.0  # takes no sample, and takes all
    while (middle := (early + late) / 2) not in (early, late):
        early, late = (middle, late) if taken(middle).sum() <= wanted else (early, middle)
    counts, more = taken(early), taken(late)
    for shard in np.flatnonzero(more > counts)[: wanted - int(counts.sum())]:  # samples with the same time
        counts[shard] += 1
    return tuple(counts.tolist())


def group_hashes(groups: Sequence[str]) -> NDArray[np.int64]:
    """(len(groups),) int64: the hash of each sample's group name, in 8 bytes."""
    hashes = {group: seed_of("fold", group) for group in set(groups)}
    return np.fromiter(map(hashes.__getitem__, groups), np.int64, len(groups))


def fold_numbers(groups: NDArray[np.int64], count: int) -> NDArray[np.uint8]:
    """(len(groups),) uint8: the fold of each sample, one of `count`, from the hash of its group. Groups stay whole.

    Groups are assigned from the largest to the smallest, each to the fold with the fewest samples. Groups of the same
    size are ordered by their hashes.
    """
    hashes, sizes = np.unique(groups, return_counts=True)
    loads = [0] * count
    part = np.empty(len(hashes), np.uint8)
    for group in np.argsort(-sizes, kind="stable"):  # already ordered by hash
        part[group] = loads.index(min(loads))
        loads[part[group]] += int(sizes[group])
    return part[np.searchsorted(hashes, groups)]


class JoinedSelection:
    """The chosen samples of several splits in a row."""

    def __init__(self, parts: Sequence[tuple["Selection | JoinedSelection | None", Sequence[int]]]) -> None:
        """parts: the selection of every split (None for all samples) and the number of samples in its shards."""
        self._parts = tuple(selection for selection, _ in parts)
        counts = [tuple(samples) if selection is None else selection.counts for selection, samples in parts]
        self.counts: tuple[int, ...] = tuple(count for part in counts for count in part)
        self._places = [(number, shard) for number, part in enumerate(counts) for shard in range(len(part))]

    def indices(self, shard: int) -> NDArray[np.int64]:
        """See `Selection.indices`."""
        number, below = self._places[shard]
        selection = self._parts[number]
        return np.arange(self.counts[shard]) if selection is None else selection.indices(below)

    @property
    def identity(self) -> list[object]:
        return [None if selection is None else selection.identity for selection in self._parts]
