"""Shards that cannot be used: missing, of another length, or with a sidecar that is not what was packed.

A run looks for them before its first step, by their lengths and sidecars alone. Readers find those that become bad
later.
"""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from dist_seg.data.shards.manifest import ShardInfo
from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.errors import DataError, MissingObjectError
from dist_seg.storage.object_store import Storage

_CHECKING_THREADS = 32
_MOST_NAMED = 200


class BadShardError(DataError):
    """A shard that cannot be used."""

    def __init__(self, shard: str, reason: str) -> None:
        super().__init__(reason, where=shard)
        self.shard = shard


def find_bad_shards(storage: Storage, shards: Iterable[ShardInfo]) -> dict[str, str]:
    """The shards that cannot be used, each with the reason. Reads none of their samples.

    Raises StorageError if the storage fails.
    """
    listed = sorted(shards, key=lambda shard: shard.name)
    with ThreadPoolExecutor(_CHECKING_THREADS) as pool:  # Object stores answer after tens of milliseconds each.
        reasons = pool.map(lambda shard: _why_unusable(storage, shard), listed)
        return {shard.name: reason for shard, reason in zip(listed, reasons, strict=True) if reason is not None}


def read_sidecar(storage: Storage, shard: ShardInfo) -> Sidecar:
    """The sidecar of a shard, checked. Raises BadShardError if it is not what was packed."""
    try:
        data = storage.read(shard.sidecar_name)
        if not _is_packed(data, shard):  # the read may be at fault, so it counts only after a second one
            data = storage.read(shard.sidecar_name)
    except MissingObjectError as error:
        raise BadShardError(shard.name, f"its index {shard.sidecar_name} is missing") from error
    if not _is_packed(data, shard):
        raise BadShardError(shard.name, f"its index {shard.sidecar_name} differs from what was packed (sha256)")
    try:
        sidecar = Sidecar.parse(data, shard.sidecar_name)
        sidecar.check(shard.samples, shard.bytes, shard.sidecar_name, shard.class_samples)
    except DataError as error:
        raise BadShardError(shard.name, f"its index cannot be used: {error}") from error
    return sidecar


def why_other_length(storage: Storage, shard: ShardInfo) -> str | None:
    """What is wrong with the shard's length; None if it is there and as long as it was packed."""
    try:
        size = storage.size(shard.name)
    except MissingObjectError:
        return "is missing"
    if size == shard.bytes:
        return None
    return f"has {size} bytes, but the manifest says {shard.bytes}"


def check_bad_shards(bad: Mapping[str, str], most: int, num_shards: int, url: str) -> None:
    """Raises DataError that names the bad training shards if they are more than `most`, or all there are."""
    if not bad or (len(bad) <= most and len(bad) < num_shards):
        return
    remedy = f"or leave them out with data.max_bad_shards={len(bad)}, which trains on other samples instead"
    raise unusable(bad, url, "training" if len(bad) < num_shards else "", remedy if len(bad) < num_shards else "")


def unusable(bad: Mapping[str, str], url: str, what: str, remedy: str) -> DataError:
    """The error that names bad shards and says what to do. Every rank must raise it."""
    named = [f"  {shard}: {reason}" for shard, reason in sorted(bad.items())]
    more = [f"  and {len(named) - _MOST_NAMED} more"] if len(named) > _MOST_NAMED else []
    shards = "shard" if len(bad) == 1 else "shards"
    error = DataError(
        "\n".join(
            [
                f"{url}: {len(bad)} {what}{' ' if what else ''}{shards} cannot be used:",
                *named[:_MOST_NAMED],
                *more,
                f"Run `dist-seg verify {url}`, copy or pack the data again, and start the same command"
                f"{'; ' if remedy else ''}{remedy}",
            ]
        )
    )
    error.shared = True
    return error


def _why_unusable(storage: Storage, shard: ShardInfo) -> str | None:
    other_length = why_other_length(storage, shard)
    if other_length is not None:
        return other_length
    try:
        read_sidecar(storage, shard)
    except BadShardError as error:
        return error.reason
    return None


def _is_packed(data: bytes, shard: ShardInfo) -> bool:
    return hashlib.sha256(data).hexdigest() == shard.sidecar_sha256
