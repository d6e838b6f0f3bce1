"""Sums over splits of finished data sets: exact, so what a manifest has only percentiles of is counted again."""

from collections.abc import Sequence
from dataclasses import replace

from dist_seg.data.codecs.annotations import check_annotations, parse_annotations
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.npy import ArrayLayout, decode_npy
from dist_seg.data.shards.channel_statistics import ChannelCounter, ShardChannels
from dist_seg.data.shards.manifest import ChannelStatistics, ShardInfo, Split
from dist_seg.data.shards.object_counts import ObjectCounter, ShardObjects, object_counts
from dist_seg.data.shards.sidecar import Sidecar, crc32c
from dist_seg.errors import DataError
from dist_seg.storage.object_store import Storage


def summed(
    splits: Sequence[Split],
    shards: Sequence[ShardInfo],
    objects: Sequence[ShardObjects],
    channels: ChannelStatistics | None = None,
) -> Split:
    """The splits as one, of these shards. objects: of instances, all shards' counts. channels: of arrays, of all."""
    counts = object_counts(objects)
    if counts:
        skipped = sum(split.objects.skipped_annotations for split in splits if split.objects)
        counts = replace(counts, skipped_annotations=skipped)
    return Split(
        shards=tuple(shards),
        class_pixels=tuple(sum(pixels) for pixels in zip(*(split.class_pixels for split in splits), strict=True)),
        ignored_pixels=sum(split.ignored_pixels for split in splits),
        skipped_samples=sum(split.skipped_samples for split in splits),
        objects=counts,
        channels=channels,
    )


def shard_objects(storage: Storage, shard: ShardInfo, sidecar: Sidecar, num_classes: int) -> ShardObjects:
    """The objects of a packed shard, from its annotations; nothing else of it is read.

    Raises `DataError` naming the sample whose annotations cannot be used.
    """
    counter = ObjectCounter(num_classes)
    for i in range(sidecar.num_samples):
        member = sidecar.member(i, "annotations")
        try:
            annotations = parse_annotations(storage.read_range(shard.name, member.offset, member.length))
            check_annotations(annotations, sidecar.height(i), sidecar.width(i))
        except UndecodableError as error:
            raise DataError(f"{storage.url}/{shard.name}: {sidecar.key(i)}: {error}; pack it again") from error
        counter.add(annotations)
    return counter.counts()


def shard_channels(storage: Storage, shard: ShardInfo, sidecar: Sidecar, layout: ArrayLayout) -> ShardChannels:
    """The values of a packed shard's images, all of which are read. Raises `DataError` naming a damaged sample."""
    counter = ChannelCounter(layout)
    for i in range(sidecar.num_samples):
        member = sidecar.member(i, "image")
        data = storage.read_range(shard.name, member.offset, member.length)
        if crc32c(data) != member.crc32c:
            raise DataError(f"{storage.url}/{shard.name}: {sidecar.key(i)}.{member.suffix} is damaged; pack it again")
        try:
            counter.add(decode_npy(data, layout, sidecar.height(i), sidecar.width(i)))
        except UndecodableError as error:
            raise DataError(f"{storage.url}/{shard.name}: {sidecar.key(i)}: {error}; pack it again") from error
    return counter.counts()
