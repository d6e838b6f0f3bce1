"""The manifest of packed shards."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from dist_seg.data.codecs.npy import ArrayLayout
from dist_seg.data.packing.records import PackedShard, left_out
from dist_seg.data.raw.source import AnySource, is_instances, task_of
from dist_seg.data.shards.channel_statistics import channel_statistics
from dist_seg.data.shards.manifest import ChannelStatistics, Manifest, ObjectCounts, Split
from dist_seg.data.shards.object_counts import object_counts
from dist_seg.errors import DataError


def kind_of(source: AnySource, array: ArrayLayout | None = None) -> Manifest:
    """The manifest of the source's data, without its splits. array: of images that are arrays."""
    return Manifest(
        task=task_of(source),
        class_names=tuple(source.class_names),
        palette=tuple(source.palette),
        ignore_index=source.ignore_index,
        category_ids=tuple(source.category_ids) if is_instances(source) else None,
        image=array,
    )


def manifest_of(kind: Manifest, shards: Iterable[PackedShard], *, whole: bool = True) -> Manifest:
    """The manifest of these shards. Raises `DataError` for a split of a whole data set without one good sample."""
    by_split: dict[str, list[PackedShard]] = {}
    for shard in shards:
        by_split.setdefault(shard.split, []).append(shard)
    for name, parts in by_split.items():
        if whole and not any(part.info.samples for part in parts):
            first = next(refusal for part in parts for refusal in part.skipped)
            raise DataError(f"not one sample of split {name} can be packed; the first: {first.reason}")
    return replace(
        kind,
        splits={
            name: Split(
                shards=tuple(part.info for part in parts if part.info.samples),
                class_pixels=tuple(sum(counts) for counts in zip(*(part.class_pixels for part in parts), strict=True)),
                ignored_pixels=sum(part.ignored_pixels for part in parts),
                skipped_samples=left_out(refusal for part in parts for refusal in part.skipped)[0],
                objects=_objects(parts),
                channels=_channels(kind, parts),
            )
            for name, parts in by_split.items()
        },
    )


def _objects(shards: Sequence[PackedShard]) -> ObjectCounts | None:
    counts = object_counts([shard.objects for shard in shards if shard.objects])
    if counts is None:
        return None
    _, strays = left_out(refusal for shard in shards for refusal in shard.skipped)
    return replace(counts, skipped_annotations=counts.skipped_annotations + strays)


def _channels(kind: Manifest, shards: Sequence[PackedShard]) -> ChannelStatistics | None:
    """Of arrays; a part of a data set may be without a sample of a split."""
    counted = [shard.channels for shard in shards if shard.channels and shard.channels.pixels]
    return channel_statistics(kind.image, counted) if kind.image and counted else None
