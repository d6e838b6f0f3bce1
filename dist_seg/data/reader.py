"""Encoded samples by their place in the shards, checked against the checksums that were taken while packing."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from dist_seg.data.annotations import MAX_LAYERS, check_annotations, parse_annotations
from dist_seg.data.batch import BadSample, EncodedSample
from dist_seg.data.headers import UndecodableError, check_pair
from dist_seg.data.manifest import Manifest
from dist_seg.data.sidecar import Member, Sidecar, crc32c
from dist_seg.errors import DataError
from dist_seg.runtime.storage import Storage

_MAX_SIDECAR_BYTES = 64 << 20
"""Of the indexes that are kept: of about half a million samples, in however small shards."""
_LARGEST_GAP = 64 << 10
"""Bytes between two members that are rather read along than skipped by a second request."""


class BadSampleError(DataError):
    """A sample that was read and cannot be used: damaged in its shard, or packed by something else than dist-seg."""

    def __init__(self, bad: BadSample) -> None:
        super().__init__(f"{bad.shard}: sample {bad.key}: {bad.reason}")
        self.bad = bad

    def __reduce__(self) -> tuple[type["BadSampleError"], tuple[BadSample]]:
        return BadSampleError, (self.bad,)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleInfo:
    """What the index says about a sample."""

    key: str
    height: int
    width: int


class ShardReader:
    """Random access to the samples of one split.

    May be pickled and used from several threads. Holds the indexes of the shards that were read last, no pixels.
    """

    def __init__(self, storage: Storage, manifest: Manifest, split: str) -> None:
        self._storage = storage
        self._shards = manifest.split(split).shards
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._sidecars: OrderedDict[int, Sidecar] = OrderedDict()
        self._sidecar_bytes = 0

    def __getstate__(self) -> tuple[object, ...]:
        return self._storage, self._shards

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self._storage, self._shards = state  # type: ignore[assignment]  # what __getstate__ gave
        self._reset()

    @property
    def shard_samples(self) -> tuple[int, ...]:
        """The number of samples of every shard."""
        return tuple(shard.samples for shard in self._shards)

    def shard_name(self, shard: int) -> str:
        return self._shards[shard].name

    def info(self, shard: int, index: int) -> SampleInfo:
        """Key and size of a sample. Reads the shard's index, not the shard."""
        sidecar = self._sidecar(shard)
        return SampleInfo(key=sidecar.key(index), height=sidecar.height(index), width=sidecar.width(index))

    def read(self, shard: int, index: int) -> EncodedSample:
        """A sample, checked. Raises BadSampleError for one that cannot be used and StorageError where reading fails."""
        sidecar = self._sidecar(shard)
        info = self.info(shard, index)
        members = [sidecar.member(index, role) for role in sidecar.roles]
        annotations = None
        try:
            image, target, *others = self._read_checked(shard, members)
            check_pair(image, target, info.height, info.width, max_layers=MAX_LAYERS if others else 0)
            if others:
                annotations = parse_annotations(others[0])
                check_annotations(annotations, info.height, info.width)
        except UndecodableError as error:
            bad = BadSample(key=info.key, shard=self.shard_name(shard), reason=str(error))
            raise BadSampleError(bad) from error
        return EncodedSample(
            key=info.key, image=image, target=target, height=info.height, width=info.width, annotations=annotations
        )

    def _read_checked(self, shard: int, members: list[Member]) -> list[bytes]:
        for _ in range(2):  # a wrong checksum may be the reading's fault: it counts after a fresh read only
            contents = self._read_members(shard, members)
            damaged = [m for m, data in zip(members, contents, strict=True) if crc32c(data) != m.crc32c]
            if not damaged:
                return contents
        raise UndecodableError(f"{damaged[0].suffix}: its checksum is wrong, read twice")

    def _read_members(self, shard: int, members: list[Member]) -> list[bytes]:
        name = self.shard_name(shard)
        begin, end = min(m.offset for m in members), max(m.offset + m.length for m in members)
        if end - begin - sum(m.length for m in members) > _LARGEST_GAP:
            return [self._storage.read_range(name, m.offset, m.length) for m in members]
        span = self._storage.read_range(name, begin, end - begin)
        return [span[m.offset - begin : m.offset - begin + m.length] for m in members]

    def _sidecar(self, shard: int) -> Sidecar:
        with self._lock:
            if shard in self._sidecars:
                self._sidecars.move_to_end(shard)
                return self._sidecars[shard]
        info = self._shards[shard]
        where = f"{self._storage.url}/{info.sidecar_name}"
        sidecar = Sidecar.parse(self._storage.read(info.sidecar_name), where)
        if sidecar.num_samples != info.samples:
            raise DataError(
                f"{where}: {sidecar.num_samples} samples, the manifest says {info.samples}; pack or copy the data again"
            )
        with self._lock:
            if shard not in self._sidecars:  # another thread may have been faster
                self._sidecars[shard] = sidecar
                self._sidecar_bytes += sidecar.num_bytes
            while self._sidecar_bytes > _MAX_SIDECAR_BYTES and len(self._sidecars) > 1:
                _, dropped = self._sidecars.popitem(last=False)
                self._sidecar_bytes -= dropped.num_bytes
        return sidecar
