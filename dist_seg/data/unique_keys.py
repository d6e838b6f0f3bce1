"""Whether a key comes twice in a split, over any number of shards, at 8 bytes a sample."""

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
    """Reads its index; called twice where a key may come twice."""


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


def _hashes(keys: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(hash, keys), np.int64, len(keys))
