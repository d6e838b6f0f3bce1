"""Reads encoded samples by their place in the shards and checks them against the checksums taken while packing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.encoded import BadSample, EncodedSample
from dist_seg.data.codecs.headers import MAX_PIXELS, UndecodableError
from dist_seg.data.codecs.targets import read_sample, target_kind
from dist_seg.data.shards.bad_shards import BadShardError, read_sidecar, why_other_length
from dist_seg.data.shards.opened import MAX_SIDECAR_BYTES, SidecarCache
from dist_seg.data.shards.sidecar import Member, Sidecar, crc32c
from dist_seg.data.view.data_view import DataView, dataset_of
from dist_seg.data.view.taxonomy import target_classes
from dist_seg.errors import DataError

_LARGEST_GAP = 64 << 10
"""Bytes between two members up to which one request reads both and the gap."""
_LOOKED_AT = 9
"""Number of evenly spread samples that show whether a whole shard was changed, or only one sample."""


class BadSampleError(DataError):
    """A sample that was read and cannot be used: damaged in its shard, or not packed by dist-seg."""

    def __init__(self, bad: BadSample) -> None:
        super().__init__(bad.reason, where=f"{bad.shard}: sample {bad.key}")
        self.bad = bad


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleInfo:
    """Key and size of a sample, from the sidecar of its shard."""

    key: str
    height: int
    width: int


_NOT_PICKLED = frozenset({"_changes", "_unreadable", "_indexes"})
"""Attributes that `_reset` creates again."""


class ShardReader:
    """Random access to the samples of one split.

    Can be pickled and used from several threads. Keeps the sidecars of the shards read last, but no pixels.

    max_pixels: a sample with a larger image is a bad sample.
    """

    def __init__(self, view: DataView, split: str, *, max_pixels: int = MAX_PIXELS) -> None:
        self._storage, self._bad_shards = view.storage, dict(view.bad_shards)
        self._shards, self._selection = view.split(split).shards, view.split(split).selection
        self._is_mix = bool(view.mixed)
        self._array = view.image
        self._max_pixels = max_pixels
        self._classes = {name: target_classes(view, name) for name in view.mixed or (None,)}
        self._num_classes = view.num_classes
        self._kinds = {name: target_kind(view.task, classes) for name, classes in self._classes.items()}
        self._reset()

    def _reset(self) -> None:
        self._changes: dict[int, str | None] = {}
        self._unreadable: set[int] = set()
        self._indexes: SidecarCache[int, _Index] = SidecarCache(MAX_SIDECAR_BYTES)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in _NOT_PICKLED}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._reset()

    @property
    def shard_samples(self) -> tuple[int, ...]:
        """The number of samples of every shard."""
        return tuple(s.samples for s in self._shards) if self._selection is None else self._selection.counts

    @property
    def bad_shards(self) -> frozenset[int]:
        """Positions of the shards that are not to be read."""
        return frozenset(i for i, shard in enumerate(self._shards) if shard.name in self._bad_shards)

    @property
    def url(self) -> str:
        return self._storage.url

    def shard_name(self, shard: int) -> str:
        return self._shards[shard].name

    def _dataset(self, shard: int) -> str | None:
        return dataset_of(self.shard_name(shard)) if self._is_mix else None

    def info(self, shard: int, index: int) -> SampleInfo:
        """Key and size of a sample. Reads the shard's sidecar, not the shard."""
        found = self._index(shard)
        return self._info(shard, found.sidecar, found.place(index))

    def key_or_place(self, shard: int, index: int) -> str:
        """A sample's key, or a description of its place if the shard's sidecar cannot be read."""
        if shard not in self._unreadable:
            try:
                return self.info(shard, index).key
            except BadShardError:
                self._unreadable.add(shard)  # do not try again for each of its samples
        place = index if self._selection is None else int(self._selection.indices(shard)[index])
        return f"sample {place} of {self.shard_name(shard)}"

    def read(self, shard: int, index: int, *, holding: int | None = None) -> EncodedSample:
        """A checked sample. holding: a class id; `index` then counts only the samples of the shard that hold it.

        Raises BadSampleError if the sample cannot be used, BadShardError if its shard cannot, and StorageError if
        reading fails.
        """
        name = self.shard_name(shard)
        if name in self._bad_shards:
            raise BadShardError(name, self._bad_shards[name])
        found = self._index(shard)
        sidecar, place = found.sidecar, found.place(index, self._packed_ids(shard, holding))
        info = self._info(shard, sidecar, place)
        kind = self._kinds[self._dataset(shard)]
        try:
            if info.height * info.width > self._max_pixels:
                raise UndecodableError(
                    f"image: {info.width}x{info.height} pixels, more than the allowed {self._max_pixels}; raise "
                    "data.max_pixels if it is to be trusted"
                )
            members = self._read_checked(shard, _members(sidecar, place))
            return read_sample(members, kind, self._array, key=info.key, height=info.height, width=info.width)
        except UndecodableError as error:
            bad = BadSample(key=info.key, shard=self.shard_name(shard), reason=str(error))
            raise BadSampleError(bad) from error

    def class_samples(self, shard: int) -> list[int]:
        """Number of samples that hold each class. Raises DataError if the shard's sidecar does not record it."""
        found = self._index(shard)
        if not found.sidecar.num_classes:
            raise DataError(
                f"{self._storage.url}: the sidecar of {self.shard_name(shard)} does not record which samples hold "
                "which classes: it was packed by an earlier version, or belongs to tars that were not packed here; "
                "pack the data again, or use data.sampling=uniform"
            )
        return [int(found.held(self._packed_ids(shard, class_id)).sum()) for class_id in range(self._num_classes)]

    def _packed_ids(self, shard: int, class_id: int | None) -> list[int]:
        """The ids in a shard that make up a class of the run."""
        if class_id is None:
            return []
        table = self._classes[self._dataset(shard)].new_ids
        return [class_id] if table is None else np.flatnonzero(table == class_id).tolist()

    def _read_checked(self, shard: int, members: list[Member]) -> list[bytes]:
        for _ in range(2):  # a wrong checksum may come from reading: it only counts after a second read
            contents = self._read_members(shard, members)
            damaged = [m for m, data in zip(members, contents, strict=True) if crc32c(data) != m.crc32c]
            if not damaged:
                return contents
        change = self._why_changed(shard)
        if change is not None:
            raise BadShardError(self.shard_name(shard), change)
        raise UndecodableError(f"{damaged[0].suffix}: its checksum is wrong, read twice")

    def _why_changed(self, shard: int) -> str | None:
        """How a shard with a damaged sample was changed; None if the rest of the shard is unchanged.

        Depends on the shard alone, not on the sample that was met first, so that every rank finds the same.
        """
        if shard not in self._changes:
            info = self._shards[shard]
            change = why_other_length(self._storage, info)
            if change is None:
                # Read again: a shard that was packed again has another sidecar, too.
                change = _damage(read_sidecar(self._storage, info), lambda members: self._read_members(shard, members))
            self._changes[shard] = change
        return self._changes[shard]

    def _read_members(self, shard: int, members: list[Member]) -> list[bytes]:
        name = self.shard_name(shard)
        begin, end = min(m.offset for m in members), max(m.offset + m.length for m in members)
        try:
            if end - begin - sum(m.length for m in members) > _LARGEST_GAP:
                return [self._storage.read_range(name, m.offset, m.length) for m in members]
            span = self._storage.read_range(name, begin, end - begin)
        except DataError as error:  # missing, or ends before: its members lie within the length that was packed
            raise BadShardError(name, error.reason) from error
        return [span[m.offset - begin : m.offset - begin + m.length] for m in members]

    def _info(self, shard: int, sidecar: Sidecar, place: int) -> SampleInfo:
        dataset, key = self._dataset(shard), sidecar.key(place)
        return SampleInfo(
            key=key if dataset is None else f"{dataset}/{key}",
            height=sidecar.height(place),
            width=sidecar.width(place),
        )

    def _index(self, shard: int) -> "_Index":
        return self._indexes.get(shard, lambda: self._read_index(shard))

    def _read_index(self, shard: int) -> "_Index":
        sidecar = read_sidecar(self._storage, self._shards[shard])
        chosen = None if self._selection is None else self._selection.indices(shard)
        return _Index(sidecar=sidecar, chosen=chosen)


@dataclass(frozen=True, kw_only=True)
class _Index:
    """A shard's sidecar, and the places of the chosen samples; None for all samples."""

    sidecar: Sidecar
    chosen: NDArray[np.int64] | None

    @property
    def num_bytes(self) -> int:
        return self.sidecar.num_bytes + (0 if self.chosen is None else self.chosen.nbytes)

    def place(self, index: int, holding: Sequence[int] = ()) -> int:
        """Place of chosen sample `index` in the shard. holding: count only samples that hold one of these class ids."""
        if holding:
            index = int(np.flatnonzero(self.held(holding))[index])
        return index if self.chosen is None else int(self.chosen[index])

    def held(self, class_ids: Sequence[int]) -> NDArray[np.bool_]:
        """Whether each chosen sample holds any of these class ids, which are those in the shard."""
        held = self.sidecar.held(class_ids)
        return held if self.chosen is None else held[self.chosen]


def _members(sidecar: Sidecar, index: int) -> list[Member]:
    return [sidecar.member(index, role) for role in sidecar.roles]


def _damage(sidecar: Sidecar, read: Callable[[list[Member]], list[bytes]]) -> str | None:
    """Describes the damage if many samples spread over a shard are damaged; None if only a few are."""
    count = min(_LOOKED_AT, sidecar.num_samples)
    chosen = [_members(sidecar, i * sidecar.num_samples // count) for i in range(count)]
    damaged = sum(
        any(crc32c(data) != member.crc32c for member, data in zip(members, read(members), strict=True))
        for members in chosen
    )
    if damaged < max(2, count / 2):
        return None
    return f"was changed since it was packed: of {count} samples looked at {damaged} have wrong checksums"
