"""Adds shards up to a manifest: from the records of packing, or from the splits of finished data sets."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from dist_seg.data.codecs.npy import ArrayLayout
from dist_seg.data.packing.finished import FinishedShard
from dist_seg.data.packing.records import PackedShard, left_out
from dist_seg.data.raw.source import AnySource, is_instances, task_of
from dist_seg.data.shards.channel_statistics import channel_statistics
from dist_seg.data.shards.manifest import ChannelStatistics, Manifest, ObjectCounts, Split
from dist_seg.data.shards.object_counts import object_counts
from dist_seg.errors import DataError


def manifest_header(source: AnySource, array: ArrayLayout | None = None) -> Manifest:
    """The manifest of the source without its splits. array: layout of array images, None for pictures."""
    return Manifest(
        task=task_of(source),
        class_names=tuple(source.class_names),
        palette=tuple(source.palette),
        ignore_index=source.ignore_index,
        category_ids=tuple(source.category_ids) if is_instances(source) else None,
        image=array,
    )


def manifest_of(header: Manifest, shards: Iterable[PackedShard], *, whole: bool = True) -> Manifest:
    """The manifest of these shards. whole: raises `DataError` for a split without a good sample."""
    by_split: dict[str, list[PackedShard]] = {}
    for shard in shards:
        by_split.setdefault(shard.split, []).append(shard)
    for name, records in by_split.items():
        if whole and not any(record.info.samples for record in records):
            first = next(refusal for record in records for refusal in record.skipped)
            raise DataError(f"not one sample of split {name} can be packed; the first: {first.reason}")
    return replace(header, splits={name: _split(header, records) for name, records in by_split.items()})


def joined_splits(header: Manifest, splits: Sequence[Split], shards: Sequence[FinishedShard]) -> Split:
    """The splits joined into one. shards: all shards of these splits.

    Counts are exact. Splits store only percentiles of object sizes and pixel values, so those are computed from the
    shards again.
    """
    shards = [shard for shard in shards if shard.info.samples]
    objects = channels = None
    if header.task == "instance":
        objects = object_counts([shard.objects(header.num_classes) for shard in shards])
    if objects:
        skipped = sum(split.objects.skipped_annotations for split in splits if split.objects)
        objects = replace(objects, skipped_annotations=skipped)
    if header.image:
        channels = channel_statistics(header.image, [shard.channels(header.image) for shard in shards])
    return Split(
        shards=tuple(shard.info for shard in shards),
        class_pixels=tuple(sum(pixels) for pixels in zip(*(split.class_pixels for split in splits), strict=True)),
        ignored_pixels=sum(split.ignored_pixels for split in splits),
        skipped_samples=sum(split.skipped_samples for split in splits),
        objects=objects,
        channels=channels,
    )


def _split(header: Manifest, shards: Sequence[PackedShard]) -> Split:
    return Split(
        shards=tuple(shard.info for shard in shards if shard.info.samples),
        class_pixels=tuple(sum(counts) for counts in zip(*(shard.class_pixels for shard in shards), strict=True)),
        ignored_pixels=sum(shard.ignored_pixels for shard in shards),
        skipped_samples=left_out(refusal for shard in shards for refusal in shard.skipped)[0],
        objects=_objects(shards),
        channels=_channels(header, shards),
    )


def _objects(shards: Sequence[PackedShard]) -> ObjectCounts | None:
    counts = object_counts([shard.objects for shard in shards if shard.objects])
    if counts is None:
        return None
    _, strays = left_out(refusal for shard in shards for refusal in shard.skipped)
    return replace(counts, skipped_annotations=counts.skipped_annotations + strays)


def _channels(header: Manifest, shards: Sequence[PackedShard]) -> ChannelStatistics | None:
    """Statistics of array images. A part of a data set may have no sample of a split."""
    counted = [shard.channels for shard in shards if shard.channels and shard.channels.pixels]
    return channel_statistics(header.image, counted) if header.image and counted else None
