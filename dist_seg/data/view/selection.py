"""Some of a split's samples: all but one of several folds or that one, and a fraction of these.

Which they are does not depend on a run's seed. Inside every shard they are spread by a permutation that its name keys,
so each part is made up of all shards alike.
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
    """Samples divided into `count` parts; chosen are those of part `fold`, or all the others."""

    count: int
    fold: int
    held_out: bool
    """Whether it is the part itself that is chosen."""
    numbers: tuple[NDArray[np.uint8], ...] | None = None
    """Of samples divided by group: of every shard, the part that each sample belongs to."""


class Selection:
    """Chosen samples of a split; sample j of a shard's chosen ones is the j-th in the shard's order."""

    def __init__(
        self, names: Sequence[str], samples: Sequence[int], *, folds: Folds | None = None, fraction: float = 1.0
    ) -> None:
        """names, samples: of the split's shards. fraction: so much of what the folds leave, one sample at least."""
        self._names, self._samples, self._folds, self._fraction = tuple(names), tuple(samples), folds, fraction
        self._begins = [0, *np.cumsum(samples).tolist()][:-1]
        self.counts: tuple[int, ...] = tuple(samples)
        """Chosen samples of every shard."""
        if folds is not None:
            self.counts = tuple(self._fold_count(shard, folds) for shard in range(len(samples)))
        if fraction < 1:
            self.counts = shares(names, self.counts, fraction)

    def indices(self, shard: int) -> NDArray[np.int64]:
        """The chosen samples' places in a shard, rising: (counts[shard],)."""
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
        """JSON-ready: what, with the shards, tells it from others."""
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
    """How many samples of every shard make up a fraction of all: exactly its part rounded down, one at least.

    Each shard gives about its part. A larger fraction takes no fewer of any shard: sample p of a shard of n comes at
    the time (p + u) / n, with a number u in [0, 1) of the shard's own, and the first ones are taken.
    """
    wanted = max(1, int(Fraction(str(fraction)) * sum(samples)))
    sizes = np.asarray(samples, dtype=np.float64)
    starts = np.array([seed_of("fraction", name) / 2**63 for name in names])

    def taken(time: float) -> NDArray[np.int64]:
        numbers: NDArray[np.float64] = np.clip(np.ceil(time * sizes - starts), 0, sizes)
        return numbers.astype(np.int64)

    early, late = 0.0, 2.0  # none, and all of them
    while (middle := (early + late) / 2) not in (early, late):
        early, late = (middle, late) if taken(middle).sum() <= wanted else (early, middle)
    counts, more = taken(early), taken(late)
    for shard in np.flatnonzero(more > counts)[: wanted - int(counts.sum())]:  # at one and the same time
        counts[shard] += 1
    return tuple(counts.tolist())


def group_hashes(groups: Sequence[str]) -> NDArray[np.int64]:
    """For every sample the hash of its group's name, in 8 bytes: (len(groups),) int64."""
    hashes = {group: seed_of("fold", group) for group in set(groups)}
    return np.fromiter(map(hashes.__getitem__, groups), np.int64, len(groups))


def fold_numbers(groups: NDArray[np.int64], count: int) -> NDArray[np.uint8]:
    """For every sample, by its group's hash, one of `count` parts, which groups are in as wholes: (len(groups),) uint8.

    The largest group first, each goes to the part with the fewest samples; groups of one size in the order of their
    hashes.
    """
    hashes, sizes = np.unique(groups, return_counts=True)
    loads = [0] * count
    part = np.empty(len(hashes), np.uint8)
    for group in np.argsort(-sizes, kind="stable"):  # by hash already
        part[group] = loads.index(min(loads))
        loads[part[group]] += int(sizes[group])
    return part[np.searchsorted(hashes, groups)]


class JoinedSelection:
    """The chosen samples of several splits one after the other."""

    def __init__(self, parts: Sequence[tuple["Selection | JoinedSelection | None", Sequence[int]]]) -> None:
        """parts: of every split its selection, None for all, and the samples of its shards."""
        self._parts = tuple(selection for selection, _ in parts)
        counts = [tuple(samples) if selection is None else selection.counts for selection, samples in parts]
        self.counts: tuple[int, ...] = tuple(count for part in counts for count in part)
        self._places = [(number, shard) for number, part in enumerate(counts) for shard in range(len(part))]

    def indices(self, shard: int) -> NDArray[np.int64]:
        """As of a `Selection`."""
        number, below = self._places[shard]
        selection = self._parts[number]
        return np.arange(self.counts[shard]) if selection is None else selection.indices(below)

    @property
    def identity(self) -> list[object]:
        return [None if selection is None else selection.identity for selection in self._parts]
