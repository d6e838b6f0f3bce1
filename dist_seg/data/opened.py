"""A packed data set that was opened to be looked into."""

from functools import cached_property
from pathlib import Path

from dist_seg.data.headers import MAX_PIXELS
from dist_seg.data.index_cache import MAX_INDEX_BYTES, IndexCache
from dist_seg.data.manifest import Manifest, ShardInfo
from dist_seg.data.manifest_parsing import load_manifest
from dist_seg.data.sidecar import Sidecar
from dist_seg.storage.object_store import Storage, open_storage


class OpenedData:
    """Storage, manifest and indexes of one data set, for all that looks into it: each is read once, when first needed.

    Of the indexes as many are kept as fit into `MAX_INDEX_BYTES`. max_pixels: larger images are not to be decoded.
    """

    def __init__(self, storage: Storage, *, max_pixels: int = MAX_PIXELS) -> None:
        self.storage, self.max_pixels = storage, max_pixels
        self._indexes: IndexCache[str, Sidecar] = IndexCache(MAX_INDEX_BYTES)

    @cached_property
    def manifest(self) -> Manifest:
        """Raises `DataError` for one that cannot be used, and `StorageError`."""
        return load_manifest(self.storage)

    @property
    def url(self) -> str:
        return self.storage.url

    def index(self, shard: ShardInfo) -> Sidecar:
        """What lies where in a shard. Raises `DataError` for an index that cannot be used, and `StorageError`."""
        return self._indexes.get(shard.name, lambda: shard_index(self.storage, shard))


def open_data(root: str | Path, *, max_pixels: int = MAX_PIXELS) -> OpenedData:
    """The data set at a folder or URL. Reads nothing yet."""
    return OpenedData(open_storage(root), max_pixels=max_pixels)


def shard_index(storage: Storage, shard: ShardInfo) -> Sidecar:
    """What lies where in a shard, read anew."""
    return Sidecar.parse(storage.read(shard.sidecar_name), f"{storage.url}/{shard.sidecar_name}")
