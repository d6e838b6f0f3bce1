"""A packed data set that is opened for inspection."""

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
"""Memory for sidecars: enough for about half a million samples, however small the shards."""


class Sized(Protocol):
    """A sidecar, and what is kept with it."""

    @property
    def num_bytes(self) -> int:
        """Approximate memory that it takes."""
        ...


K = TypeVar("K")
V = TypeVar("V", bound=Sized)


class SidecarCache(Generic[K, V]):
    """Keeps the sidecars that were used last, up to `max_bytes`, and always the very last one.

    May be used from several threads.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._sidecars: OrderedDict[K, V] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: K, read: Callable[[], V]) -> V:
        """The sidecar for the key. Calls `read` unless it is kept."""
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
    """Storage, manifest and sidecars of one data set. Each is read once, when first needed.

    Keeps as many sidecars as fit into `MAX_SIDECAR_BYTES`. max_pixels: images with more pixels must not be decoded.
    """

    def __init__(self, storage: Storage, *, max_pixels: int = MAX_PIXELS) -> None:
        self.storage, self.max_pixels = storage, max_pixels
        self._sidecars: SidecarCache[str, Sidecar] = SidecarCache(MAX_SIDECAR_BYTES)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest. Raises `DataError` if it cannot be used, and `StorageError`."""
        return load_manifest(self.storage)

    @property
    def url(self) -> str:
        return self.storage.url

    def sidecar(self, shard: ShardInfo) -> Sidecar:
        """The sidecar of a shard. Raises `DataError` if it cannot be used, and `StorageError`."""
        return self._sidecars.get(shard.name, lambda: read_unchecked_sidecar(self.storage, shard))


def open_data(root: str | Path, *, max_pixels: int = MAX_PIXELS) -> OpenedData:
    """Open the data set at a folder or URL. Reads nothing yet."""
    return OpenedData(open_storage(root), max_pixels=max_pixels)


def read_unchecked_sidecar(storage: Storage, shard: ShardInfo) -> Sidecar:
    """Read the sidecar of a shard without comparing it with the manifest."""
    return Sidecar.parse(storage.read(shard.sidecar_name), f"{storage.url}/{shard.sidecar_name}")
