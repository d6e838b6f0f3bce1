"""Which sample goes into which shard: decided from the listing alone, before anything is read."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dist_seg.data.raw.source import SampleRef
from dist_seg.data.shards.manifest import FORMAT_VERSION
from dist_seg.data.shards.names import SPLIT_NAME, shard_key, shard_name
from dist_seg.errors import DataError

_TAR_OVERHEAD = 2048  # headers and padding of a sample's two members, about


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to be written: its samples, in order, with keys as the shard will hold them."""

    name: str
    split: str
    samples: tuple[SampleRef, ...]
    fingerprint: str
    """Changes when anything does that the shard's bytes depend on; empty where nothing tells of that."""


def plan_shards(
    samples: Sequence[SampleRef], shard_bytes: int, classes: object, first: Mapping[str, int] | None = None
) -> list[ShardJob]:
    """Spread the samples over shards of about `shard_bytes`, mixed by the hash of their keys.

    `classes` stands for what else decides a shard's bytes. first: a split's number to begin with, 0 unless given.
    Raises `DataError` for two samples whose keys are the same once escaped.
    """
    if not samples:
        raise DataError("the data set has no samples")
    if shard_bytes < 1:
        raise DataError(f"shard_bytes is {shard_bytes}, must be at least 1")
    return [
        _job(shard_name(split, number), split, part, classes)
        for split, known in sorted(samples_by_key(samples).items())
        for number, part in enumerate(_parts(in_shard_order(split, known), shard_bytes), (first or {}).get(split, 0))
    ]


def samples_by_key(samples: Sequence[SampleRef]) -> dict[str, dict[str, SampleRef]]:
    """The samples by split and key in shards. Raises `DataError` as `plan_shards` does."""
    by_split: dict[str, dict[str, SampleRef]] = {}
    for sample in samples:
        if not SPLIT_NAME.fullmatch(sample.split):
            raise DataError(f"{sample.where}: split {sample.split!r} must be of letters, digits, _ and -")
        if not sample.key:
            raise DataError(f"{sample.where}: has an empty key")
        known, key = by_split.setdefault(sample.split, {}), shard_key(sample.key)
        if key in known:
            raise DataError(
                f"{known[key].where} and {sample.where} would both have the key {key!r} in split {sample.split}; "
                "rename one of them"
            )
        known[key] = sample
    return by_split


def in_shard_order(split: str, known: Mapping[str, SampleRef]) -> list[SampleRef]:
    """Samples, given by their keys in shards, in an order that depends on these alone."""

    def place(key: str) -> bytes:
        return hashlib.blake2b(f"{split}/{key}".encode(), digest_size=16).digest()

    return [known[key] for key in sorted(known, key=place)]


def _parts(samples: list[SampleRef], shard_bytes: int) -> list[list[SampleRef]]:
    """Cut into runs of about equal bytes, none much over `shard_bytes` unless one sample is."""
    total = sum(sample.num_bytes + _TAR_OVERHEAD for sample in samples)
    count = min(len(samples), -(-total // shard_bytes))
    parts: list[list[SampleRef]] = [[] for _ in range(count)]
    before = 0
    for sample in samples:
        size = sample.num_bytes + _TAR_OVERHEAD
        parts[min(count - 1, (before + size // 2) * count // total)].append(sample)
        before += size
    return [part for part in parts if part]


def _job(name: str, split: str, samples: list[SampleRef], classes: object) -> ShardJob:
    return ShardJob(
        name=name, split=split, samples=tuple(samples), fingerprint=shard_fingerprint(name, samples, classes)
    )


def shard_fingerprint(name: str, samples: Sequence[SampleRef], classes: object) -> str:
    """Of a shard of these samples, in this order."""
    if not all(sample.version for sample in samples):
        return ""
    listing = [[shard_key(sample.key), sample.num_bytes, sample.version] for sample in samples]
    text = json.dumps([FORMAT_VERSION, name, classes, listing])
    return hashlib.sha256(text.encode()).hexdigest()
