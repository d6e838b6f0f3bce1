"""How one run sees packed data: where it is stored, in which classes, and which of its samples, shards and threads."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.encoded import TargetClasses, TargetKind
from dist_seg.data.codecs.npy import ArrayLayout
from dist_seg.data.codecs.targets import target_kind
from dist_seg.data.shards.manifest import (
    ChannelStatistics,
    Manifest,
    ObjectCounts,
    ShardInfo,
    Split,
    json_fields,
    json_hash,
    no_split,
)
from dist_seg.data.view.selection import JoinedSelection, Selection
from dist_seg.masks.palette import Rgb
from dist_seg.storage.object_store import Storage


@dataclass(frozen=True, kw_only=True)
class SplitView:
    """A split in the classes of a run. The counts and statistics are those of all samples, chosen or not; see `Split`
    for them.
    """

    shards: tuple[ShardInfo, ...]
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    skipped_samples: int = 0
    objects: ObjectCounts | None = None
    channels: ChannelStatistics | None = None
    selection: Selection | JoinedSelection | None = None
    """The samples that the run sees; None for all."""
    class_samples: NDArray[np.unsignedinteger] | None = field(default=None, compare=False)
    """(shards, classes): samples of each shard that hold each class. Only for runs that sample by class."""

    @property
    def shard_samples(self) -> tuple[int, ...]:
        """The number of samples of every shard."""
        return tuple(shard.samples for shard in self.shards) if self.selection is None else self.selection.counts

    @property
    def num_samples(self) -> int:
        return sum(self.shard_samples)


@dataclass(frozen=True, kw_only=True)
class DataView:
    """Packed data as one run sees it: one data set or a mix of several, in the run's classes.

    The fields from `format_version` to `splits` describe the data as `Manifest` does.
    """

    storage: Storage
    format_version: int
    task: str
    class_names: tuple[str, ...]
    palette: tuple[Rgb, ...]
    ignore_index: int
    category_ids: tuple[int, ...] | None = None
    image: ArrayLayout | None = None
    splits: Mapping[str, SplitView]
    class_ids: Mapping[str, tuple[int, ...]] | None = None
    """By data set ("" if there is only one): the run's class for each class that it was packed with, 255 for an ignored
    one. A data set that keeps its ids has no entry."""
    packed_ignore: Mapping[str, int] | None = None
    """The ignore index that each data set in `class_ids` was packed with."""
    mixed: tuple[str, ...] = ()
    """Names of the data sets of a mix. Their shards are called `NAME/SHARD`."""
    bad_shards: Mapping[str, str] = field(default_factory=dict)
    """Shards that are not to be read, with the reasons, by name; shards of any split."""
    num_threads: int = 0
    """DALI's threads or torch's worker processes that make the batches. With 0, the caller's thread makes torch's."""

    @property
    def url(self) -> str:
        return self.storage.url

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def target_kind(self) -> TargetKind:
        """What the targets are, in the classes of the run."""
        return target_kind(self.task, TargetClasses.as_packed(self.num_classes, self.ignore_index))

    def split(self, name: str) -> SplitView:
        """Raises `DataError`, which lists the splits, for an unknown split."""
        if name not in self.splits:
            raise no_split(name, self.splits)
        return self.splits[name]

    @cached_property
    def hash(self) -> str:
        """Identity of the data that the run sees: sha256 in hexadecimal, in checkpoints and results.

        Equal to `Manifest.hash` for a whole data set in its own classes.
        """
        described = {name: getattr(self, name) for name in (*_DESCRIBED, "class_ids", "packed_ignore")}
        return json_hash({**json_fields(described), "splits": {n: self._hashed(s) for n, s in self.splits.items()}})

    def _hashed(self, split: SplitView) -> dict[str, object]:
        counts = {entry.name: getattr(split, entry.name) for entry in fields(Split) if entry.name != "shards"}
        shards = [json_fields({**vars(s), "dataset": dataset_of(s.name) if self.mixed else None}) for s in split.shards]
        identity = None if split.selection is None else split.selection.identity
        return {**json_fields({**counts, "selection": identity}), "shards": shards}


def dataset_of(shard: str) -> str:
    """The data set of a mix that a shard belongs to, by the shard's name in the mix."""
    return shard.partition("/")[0]


_DESCRIBED = tuple(entry.name for entry in fields(Manifest) if entry.name != "splits")


def whole_view(storage: Storage, manifest: Manifest) -> DataView:
    """All of a data set, in the classes that it was packed with."""
    return DataView(
        storage=storage,
        splits={name: SplitView(**vars(split)) for name, split in manifest.splits.items()},
        **{name: getattr(manifest, name) for name in _DESCRIBED},
    )
