"""Finished data sets that `append` adds to or `merge` joins: their shards, and what packing recorded about them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dist_seg.data.codecs.annotations import check_annotations, parse_annotations
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.npy import ArrayLayout, decode_npy
from dist_seg.data.packing.folder import record_file
from dist_seg.data.packing.records import PackedShard, RecordedOptions, read_records
from dist_seg.data.shards.channel_statistics import ChannelCounter, ShardChannels
from dist_seg.data.shards.manifest import Manifest, ShardInfo
from dist_seg.data.shards.manifest_parsing import parse_manifest, recorded_hash
from dist_seg.data.shards.names import MANIFEST_NAME
from dist_seg.data.shards.object_counts import ObjectCounter, ShardObjects
from dist_seg.data.shards.sidecar import Sidecar, crc32c
from dist_seg.errors import DataError
from dist_seg.storage.object_store import Storage, open_storage


@dataclass(frozen=True, kw_only=True)
class FinishedShard:
    """A shard of a finished data set."""

    storage: Storage
    info: ShardInfo
    record: PackedShard | None = None
    """None if the data set has none, for example because it was merged from several."""

    def sidecar(self) -> Sidecar:
        """Read the sidecar. Raises `DataError` if it is not what was packed."""
        where = f"{self.storage.url}/{self.info.sidecar_name}"
        data = self.storage.read(self.info.sidecar_name)
        if hashlib.sha256(data).hexdigest() != self.info.sidecar_sha256:
            raise DataError(f"{where}: differs from what was packed (sha256); pack {self.storage.url} again")
        sidecar = Sidecar.parse(data, where)
        sidecar.check(self.info.samples, self.info.bytes, where)
        return sidecar

    def objects(self, num_classes: int) -> ShardObjects:
        """The object counts: recorded, or else counted from the annotations alone.

        Raises `DataError` that names a sample with unusable annotations.
        """
        if self.record and self.record.objects:
            return self.record.objects
        counter, sidecar = ObjectCounter(num_classes), self.sidecar()
        for i, data in self._members(sidecar, "annotations"):
            try:
                annotations = parse_annotations(data)
                check_annotations(annotations, sidecar.height(i), sidecar.width(i))
            except UndecodableError as error:
                raise self._bad_sample(sidecar, i, error) from error
            counter.add(annotations)
        return counter.counts()

    def channels(self, layout: ArrayLayout) -> ShardChannels:
        """The channel statistics: recorded, or else from all images. Raises `DataError` that names a damaged image."""
        if self.record and self.record.channels:
            return self.record.channels
        counter, sidecar = ChannelCounter(layout), self.sidecar()
        for i, data in self._members(sidecar, "image"):
            try:
                counter.add(decode_npy(data, layout, sidecar.height(i), sidecar.width(i)))
            except UndecodableError as error:
                raise self._bad_sample(sidecar, i, error) from error
        return counter.counts()

    def _members(self, sidecar: Sidecar, role: str) -> Iterator[tuple[int, bytes]]:
        for i in range(sidecar.num_samples):
            member = sidecar.member(i, role)
            data = self.storage.read_range(self.info.name, member.offset, member.length)
            if crc32c(data) != member.crc32c:
                file = f"{sidecar.key(i)}.{member.suffix}"
                raise DataError(f"{self.storage.url}/{self.info.name}: {file} is damaged; pack it again")
            yield i, data

    def _bad_sample(self, sidecar: Sidecar, index: int, error: UndecodableError) -> DataError:
        return DataError(f"{self.storage.url}/{self.info.name}: {sidecar.key(index)}: {error}; pack it again")


@dataclass(frozen=True, kw_only=True)
class FinishedData:
    """A finished data set in a local folder, and what packing recorded about it."""

    folder: Path
    storage: Storage
    manifest: Manifest
    records: tuple[PackedShard, ...]
    """Also of shards without samples, which are not in the manifest."""
    options: RecordedOptions | None
    """The options with which all of it was packed; None if they are not recorded."""

    def shards(self, split: str) -> list[FinishedShard]:
        """The split's shards in the manifest's order; none for a split that the data set does not have."""
        by_name = {record.info.name: record for record in self.records}
        shards = []
        for info in self.manifest.splits[split].shards if split in self.manifest.splits else ():
            record = by_name.get(info.name)
            is_its = record is not None and record.info == info
            shards.append(FinishedShard(storage=self.storage, info=info, record=record if is_its else None))
        return shards


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest. Raises `DataError` if it is missing, unusable, or was changed after packing."""
    path = folder / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    manifest = parse_manifest(data, str(path))
    if recorded_hash(data) != manifest.hash:
        raise DataError(f"{path}: was changed after it was packed; run `dist-seg verify`, or pack the data again")
    return manifest


def read_finished(folder: Path) -> FinishedData:
    """Read manifest and records. Raises `DataError` as `read_manifest` does."""
    manifest, document = read_manifest(folder), read_records(record_file(folder))
    return FinishedData(
        folder=folder,
        storage=open_storage(folder),
        manifest=manifest,
        records=document.shards,
        options=document.options,
    )
