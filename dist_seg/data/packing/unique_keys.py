"""Finds keys that are twice in a split, or in two splits of several data sets. Takes about 10 or 20 bytes a sample."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.errors import DataError


@dataclass(frozen=True, kw_only=True)
class KeysOf:
    """A shard whose keys must be unique."""

    split: str
    where: str
    """Its name in errors."""
    load: Callable[[], Sidecar]
    """Reads its sidecar; called again if a key may be there twice."""
    data_set: str = ""
    """Which of several data sets. One may have a key in two splits, for example if every split numbers its files."""


def check_unique_keys(shards: Sequence[KeysOf], advice: str) -> None:
    """Raises `DataError` that names a key that is twice in a split, its shards, and the advice."""
    by_split: dict[str, list[KeysOf]] = {}
    for shard in shards:
        by_split.setdefault(shard.split, []).append(shard)
    for split, of_split in by_split.items():
        _check_keys_with(_repeated(_hashes(of_split)), split, of_split, advice)


def check_one_split(shards: Sequence[KeysOf], advice: str) -> None:
    """Raises `DataError` that names a key that is in different splits of two data sets, its shards, and the advice.

    Call `check_unique_keys` first.
    """
    splits, data_sets = {shard.split for shard in shards}, sorted({shard.data_set for shard in shards})
    if min(len(splits), len(data_sets)) < 2:
        return
    # Keys are unique within a split, so a hash that two data sets share is in different splits.
    each = [_distinct(_hashes([shard for shard in shards if shard.data_set == name])) for name in data_sets]
    shared = _repeated(np.concatenate(each))
    seen: dict[str, KeysOf] = {}
    for shard, key in _keys_with(shared, shards):
        other = seen.setdefault(key, shard)
        if other.data_set != shard.data_set and other.split != shard.split:
            raise DataError(
                f"{other.where} and {shard.where}: the key {key!r} is in split {other.split} of one and in "
                f"split {shard.split} of the other; {advice}"
            )


def _check_keys_with(hashes: AbstractSet[int], split: str, shards: Sequence[KeysOf], advice: str) -> None:
    seen: dict[str, str] = {}
    for shard, key in _keys_with(hashes, shards):
        if key in seen:
            places = shard.where if seen[key] == shard.where else f"{seen[key]} and {shard.where}"
            raise DataError(f"{places}: the key {key!r} is twice in split {split}; {advice}")
        seen[key] = shard.where


def _keys_with(hashes: AbstractSet[int], shards: Sequence[KeysOf]) -> Iterator[tuple[KeysOf, str]]:
    """The shards' keys that have one of these hashes. Different keys hardly ever do, so few keys are held."""
    for shard in shards if hashes else ():
        keys = shard.load().keys()
        yield from ((shard, key) for key in keys if hash(key) in hashes)


def _hashes(shards: Sequence[KeysOf]) -> NDArray[np.int64]:
    hashes = array("q")
    for shard in shards:
        hashes.extend(map(hash, shard.load().keys()))
    return np.frombuffer(hashes, np.int64) if hashes else np.empty(0, np.int64)


def _distinct(hashes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The different hashes. Sorts them in place, which `np.unique` does not."""
    hashes.sort()
    found: NDArray[np.int64] = hashes[np.concatenate([[True], hashes[1:] != hashes[:-1]])[: len(hashes)]]
    return found


def _repeated(hashes: NDArray[np.int64]) -> set[int]:
    """The hashes that occur more than once. Sorts them in place."""
    hashes.sort()
    return set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
