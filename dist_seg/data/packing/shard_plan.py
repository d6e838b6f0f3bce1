"""Plans which sample goes into which shard, from the listing alone, before anything is read."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dist_seg.data.raw.source import SampleRef
from dist_seg.data.shards.manifest import FORMAT_VERSION
from dist_seg.data.shards.names import SPLIT_NAME, shard_key, shard_name
from dist_seg.errors import DataError

_TAR_OVERHEAD = 2048  # about what the headers and padding of a sample's two members take


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to write, with its samples in order."""

    name: str
    split: str
    samples: tuple[SampleRef, ...]
    fingerprint: str
    """Changes when anything changes that the shard's bytes depend on. Empty if the samples have no versions."""


def plan_shards(
    samples: Sequence[SampleRef], shard_bytes: int, identity: object, first: Mapping[str, int] | None = None
) -> list[ShardJob]:
    """Spread the samples over shards of about `shard_bytes`, mixed by the hash of their keys.

    identity: what decides a shard's bytes besides its samples. first: the number of a split's first shard, 0 unless
    given. Raises `DataError` for two samples whose escaped keys are the same.
    """
    if not samples:
        raise DataError("the data set has no samples")
    if shard_bytes < 1:
        raise DataError(f"shard_bytes is {shard_bytes}, must be at least 1")
    return [
        _job(shard_name(split, number), split, part, identity)
        for split, known in sorted(samples_by_key(samples).items())
        for number, part in enumerate(_parts(in_shard_order(split, known), shard_bytes), (first or {}).get(split, 0))
    ]


def samples_by_key(samples: Sequence[SampleRef]) -> dict[str, dict[str, SampleRef]]:
    """The samples by split and by their keys in shards. Raises `DataError` as `plan_shards` does."""
    by_split: dict[str, dict[str, SampleRef]] = {}
    for sample in samples:
        if not SPLIT_NAME.fullmatch(sample.split):
            raise DataError(f"{sample.where}: split {sample.split!r} must consist of letters, digits, _ and -")
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
    """The samples in an order that depends only on their keys in shards."""

    def position(key: str) -> bytes:
        return hashlib.blake2b(f"{split}/{key}".encode(), digest_size=16).digest()

    return [known[key] for key in sorted(known, key=position)]


def _parts(samples: list[SampleRef], shard_bytes: int) -> list[list[SampleRef]]:
    """Cut into runs of about equal size, none much larger than `shard_bytes` unless a single sample is."""
    total = sum(sample.num_bytes + _TAR_OVERHEAD for sample in samples)
    count = min(len(samples), -(-total // shard_bytes))
    parts: list[list[SampleRef]] = [[] for _ in range(count)]
    before = 0
    for sample in samples:
        size = sample.num_bytes + _TAR_OVERHEAD
        parts[min(count - 1, (before + size // 2) * count // total)].append(sample)
        before += size
    return [part for part in parts if part]


def _job(name: str, split: str, samples: list[SampleRef], identity: object) -> ShardJob:
    return ShardJob(
        name=name, split=split, samples=tuple(samples), fingerprint=shard_fingerprint(name, samples, identity)
    )


def shard_fingerprint(name: str, samples: Sequence[SampleRef], identity: object) -> str:
    """The fingerprint of a shard with these samples in this order."""
    if not all(sample.version for sample in samples):
        return ""
    listing = [[shard_key(sample.key), sample.num_bytes, sample.version] for sample in samples]
    text = json.dumps([FORMAT_VERSION, name, identity, listing])
    return hashlib.sha256(text.encode()).hexdigest()
