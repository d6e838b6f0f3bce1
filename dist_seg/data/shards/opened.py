"""A packed data set that was opened to be looked into."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.shards.manifest import Manifest, ShardInfo
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.storage.object_store import Storage, open_storage

MAX_SIDECAR_BYTES = 64 << 20
"""Of about half a million samples, in however small shards."""


class Sized(Protocol):
    """An index, and what is kept beside it."""

    @property
    def num_bytes(self) -> int:
        """What it takes in memory, about."""
        ...


K = TypeVar("K")
V = TypeVar("V", bound=Sized)


class SidecarCache(Generic[K, V]):
    """Of the indexes that were asked for, the last ones up to `max_bytes`, and the very last in any case.

    May be used from several threads.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._sidecars: OrderedDict[K, V] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: K, read: Callable[[], V]) -> V:
        """The index of that key; `read` is called where it is not among those that are kept."""
        with self._lock:
            if key in self._sidecars:
                self._sidecars.move_to_end(key)
                return self._sidecars[key]
        value = read()
        with self._lock:
            if key not in self._sidecars:  # another thread may have been faster
                self._sidecars[key] = value
                self._num_bytes += value.num_bytes
            while self._num_bytes > self._max_bytes and len(self._sidecars) > 1:
                _, dropped = self._sidecars.popitem(last=False)
                self._num_bytes -= dropped.num_bytes
        return value


class OpenedData:
    """Storage, manifest and indexes of one data set, for all that looks into it: each is read once, when first needed.

    Of the indexes as many are kept as fit into `MAX_SIDECAR_BYTES`. max_pixels: larger images are not to be decoded.
    """

    def __init__(self, storage: Storage, *, max_pixels: int = MAX_PIXELS) -> None:
        self.storage, self.max_pixels = storage, max_pixels
        self._sidecars: SidecarCache[str, Sidecar] = SidecarCache(MAX_SIDECAR_BYTES)

    @cached_property
    def manifest(self) -> Manifest:
        """Raises `DataError` for one that cannot be used, and `StorageError`."""
        return load_manifest(self.storage)

    @property
    def url(self) -> str:
        return self.storage.url

    def sidecar(self, shard: ShardInfo) -> Sidecar:
        """What lies where in a shard. Raises `DataError` for an index that cannot be used, and `StorageError`."""
        return self._sidecars.get(shard.name, lambda: read_unchecked_sidecar(self.storage, shard))


def open_data(root: str | Path, *, max_pixels: int = MAX_PIXELS) -> OpenedData:
    """The data set at a folder or URL. Reads nothing yet."""
    return OpenedData(open_storage(root), max_pixels=max_pixels)


def read_unchecked_sidecar(storage: Storage, shard: ShardInfo) -> Sidecar:
    """What lies where in a shard, read anew."""
    return Sidecar.parse(storage.read(shard.sidecar_name), f"{storage.url}/{shard.sidecar_name}")
