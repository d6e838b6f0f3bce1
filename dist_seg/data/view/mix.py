"""Reads several data sets as one: shards are called `NAME/SHARD`, and classes are united by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dist_seg.data.codecs.class_ids import IGNORE_INDEX, MAX_CLASSES
from dist_seg.data.shards.manifest import ChannelStatistics, ObjectCounts
from dist_seg.data.view.data_view import DataView, SplitView
from dist_seg.data.view.selection import JoinedSelection
from dist_seg.data.view.taxonomy import ONLY, align_classes
from dist_seg.errors import ConfigError
from dist_seg.masks.palette import Rgb
from dist_seg.storage.object_store import Storage


@dataclass(frozen=True, kw_only=True)
class MixedStorage:
    """The `Storage` of a mix. Object names begin with the name of their data set."""

    members: Mapping[str, Storage]

    @property
    def url(self) -> str:
        return " ".join(member.url for member in self.members.values())

    def read(self, name: str) -> bytes:
        member, below = self._of(name)
        return member.read(below)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        member, below = self._of(name)
        return member.read_range(below, offset, length)

    def exists(self, name: str) -> bool:
        member, below = self._of(name)
        return member.exists(below)

    def size(self, name: str) -> int:
        member, below = self._of(name)
        return member.size(below)

    def modified(self, name: str) -> float:
        member, below = self._of(name)
        return member.modified(below)

    def list(self) -> list[str]:
        return sorted(f"{name}/{below}" for name, member in self.members.items() for below in member.list())

    def _of(self, name: str) -> tuple[Storage, str]:
        dataset, _, below = name.partition("/")
        return self.members[dataset], below


def united(members: Mapping[str, DataView]) -> DataView:
    """One view of several data sets. Classes are in the order in which their names first appear; splits are joined.

    A data set may lack classes and splits. Raises ConfigError for data sets with different tasks or kinds of images,
    and for too many classes in total.
    """
    tasks = {name: member.task for name, member in members.items()}
    if len(set(tasks.values())) > 1:
        raise ConfigError(f"data.mix: the data sets are packed for different tasks ({_listed(tasks)}); mix one kind")
    images = {name: str(member.image or "pictures of 8 bits") for name, member in members.items()}
    if len(set(images.values())) > 1:
        raise ConfigError(f"data.mix: the data sets hold different images ({_listed(images)}); mix one kind")
    names, palette, category_ids = _classes(list(members.values()))
    if len(names) > MAX_CLASSES:
        raise ConfigError(
            f"data.mix: the data sets have {len(names)} classes together, at most {MAX_CLASSES} are possible; "
            "merge or ignore some with the members' class_map"
        )
    aligned = {
        name: align_classes(member, names, palette, category_ids, IGNORE_INDEX) for name, member in members.items()
    }
    splits = dict.fromkeys(split for member in members.values() for split in member.splits)
    class_ids = {name: found.class_ids[ONLY] for name, found in aligned.items() if found.class_ids}
    packed_ignore = {name: found.packed_ignore[ONLY] for name, found in aligned.items() if found.packed_ignore}
    first = next(iter(aligned.values()))
    return replace(
        first,
        storage=MixedStorage(members={name: member.storage for name, member in members.items()}),
        class_names=names,
        palette=palette,
        category_ids=category_ids,
        ignore_index=IGNORE_INDEX,
        class_ids=class_ids or None,
        packed_ignore=packed_ignore or None,
        splits={split: _joined(split, aligned) for split in splits},
        mixed=tuple(members),
    )


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in kinds.items())


def _classes(members: Sequence[DataView]) -> tuple[tuple[str, ...], tuple[Rgb, ...], tuple[int, ...] | None]:
    colors: dict[str, Rgb] = {}
    ids: dict[str, int] = {}
    for member in members:
        for i, name in enumerate(member.class_names):
            colors.setdefault(name, member.palette[i])
            if member.category_ids is not None and name not in ids:
                own, taken = member.category_ids[i], ids.values()
                ids[name] = max(taken) + 1 if own in taken else own
    return tuple(colors), tuple(colors.values()), tuple(ids[name] for name in colors) if ids else None


def _joined(name: str, members: Mapping[str, DataView]) -> SplitView:
    parts = {dataset: member.splits[name] for dataset, member in members.items() if name in member.splits}
    splits = list(parts.values())
    objects = [split.objects for split in splits if split.objects is not None]
    selection = None
    if any(split.selection for split in splits):
        selection = JoinedSelection([(split.selection, [shard.samples for shard in split.shards]) for split in splits])
    return SplitView(
        shards=tuple(
            replace(shard, name=f"{dataset}/{shard.name}") for dataset, split in parts.items() for shard in split.shards
        ),
        class_pixels=_summed([split.class_pixels for split in splits]),
        ignored_pixels=sum(split.ignored_pixels for split in splits),
        skipped_samples=sum(split.skipped_samples for split in splits),
        objects=_joined_objects(objects) if objects else None,
        channels=_joined_channels([(s.channels, sum(shard.samples for shard in s.shards)) for s in splits]),
        selection=selection,
    )


def _joined_objects(parts: Sequence[ObjectCounts]) -> ObjectCounts:
    """Percentiles of sides are averages weighted by the number of objects, as manifests do not hold the sides."""
    measured = [part for part in parts if part.sides and part.total]
    total = sum(part.total for part in measured)
    sides = tuple(
        sum(part.total * side for part, side in zip(measured, column, strict=True)) / total
        for column in zip(*(part.sides for part in measured), strict=True)
    )
    return ObjectCounts(
        class_objects=_summed([part.class_objects for part in parts]),
        crowd_objects=sum(part.crowd_objects for part in parts),
        max_objects=max(part.max_objects for part in parts),
        sides=sides,
        overfull_objects=sum(part.overfull_objects for part in parts),
        hidden_pixels=sum(part.hidden_pixels for part in parts),
        skipped_annotations=sum(part.skipped_annotations for part in parts),
    )


def _joined_channels(parts: Sequence[tuple[ChannelStatistics | None, int]]) -> ChannelStatistics | None:
    """parts: statistics with the number of images. Every image has the same weight; percentiles are the outermost."""
    known = [(statistics, number) for statistics, number in parts if statistics is not None and number]
    if not known:
        return None
    weights = np.array([number for _, number in known], np.float64)[:, None]
    weights /= weights.sum()
    means, stds = (np.array([getattr(statistics, name) for statistics, _ in known]) for name in ("mean", "std"))
    mean = (weights * means).sum(axis=0)
    std = np.sqrt((weights * (stds**2 + (means - mean) ** 2)).sum(axis=0))
    return ChannelStatistics(
        low=tuple(min(column) for column in zip(*(statistics.low for statistics, _ in known), strict=True)),
        high=tuple(max(column) for column in zip(*(statistics.high for statistics, _ in known), strict=True)),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
    )


def _summed(counts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(sum(column) for column in zip(*counts, strict=True))
