"""Whether a key comes twice in a split, or in two splits of several data sets, without holding the keys themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.sidecar import Sidecar
from dist_seg.errors import DataError


@dataclass(frozen=True, kw_only=True)
class KeysOf:
    """A shard whose keys are to be unique."""

    split: str
    where: str
    """What errors name it by."""
    load: Callable[[], Sidecar]
    """Reads its index; called again where a key may come twice."""
    data_set: str = ""
    """Which of several; a data set itself may have a key in two splits, whose files are numbered anew, say."""


def check_unique_keys(shards: Sequence[KeysOf], advice: str) -> None:
    """Raises `DataError` that names a key that comes twice in a split, and its shards, and gives the advice."""
    by_split: dict[str, list[KeysOf]] = {}
    for shard in shards:
        by_split.setdefault(shard.split, []).append(shard)
    for split, of_split in by_split.items():
        hashes = [_hashes(shard.load().keys()) for shard in of_split]
        everything = np.sort(np.concatenate(hashes))
        repeated = everything[1:][everything[1:] == everything[:-1]]
        # Equal hashes are as good as never of different keys: only then are keys held.
        seen: dict[str, str] = {}
        for shard, of_shard in zip(of_split, hashes, strict=True):
            if not np.isin(of_shard, repeated).any():
                continue
            keys = shard.load().keys()
            for key in keys:
                if key in seen:
                    places = shard.where if seen[key] == shard.where else f"{seen[key]} and {shard.where}"
                    raise DataError(f"{places}: the key {key!r} comes twice in split {split}; {advice}")
                seen[key] = shard.where


def check_one_split(shards: Sequence[KeysOf], advice: str) -> None:
    """Raises `DataError` that names a key that data sets have in different splits, and its shards, with the advice.

    That no key comes twice in a split has been checked before.
    """
    splits, data_sets = sorted({shard.split for shard in shards}), sorted({shard.data_set for shard in shards})
    if min(len(splits), len(data_sets)) < 2:
        return
    hashes = [_hashes(shard.load().keys()) for shard in shards]
    order = np.argsort(everything := np.concatenate(hashes), kind="stable")
    owners = np.repeat([data_sets.index(shard.data_set) for shard in shards], [len(of_shard) for of_shard in hashes])
    # As keys are unique in a split, a hash that two data sets have is one that they have in different splits.
    same = everything[order][1:] == everything[order][:-1]
    shared = everything[order][1:][same & (owners[order][1:] != owners[order][:-1])]
    seen: dict[str, KeysOf] = {}
    for shard, of_shard in zip(shards, hashes, strict=True):
        if not np.isin(of_shard, shared).any():
            continue
        for key in shard.load().keys():  # noqa: SIM118  # no mapping
            other = seen.setdefault(key, shard)
            if other.data_set != shard.data_set and other.split != shard.split:
                raise DataError(
                    f"{other.where} and {shard.where}: the key {key!r} is in split {other.split} of the one and in "
                    f"split {shard.split} of the other; {advice}"
                )


def _hashes(keys: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(hash, keys), np.int64, len(keys))
