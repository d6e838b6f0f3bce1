"""Packs one shard, in a worker process or in the main process."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dist_seg.data.codecs.npy import decode_npy
from dist_seg.data.packing.image_kind import ImageKind, OtherKindError
from dist_seg.data.packing.options import Packing
from dist_seg.data.packing.records import MAX_REFUSALS, PackedShard, Refusal
from dist_seg.data.packing.sample import packed_sample
from dist_seg.data.packing.shard_plan import ShardJob
from dist_seg.data.raw.source import StrayAnnotationsError, is_instances
from dist_seg.data.shards.channel_statistics import ChannelCounter
from dist_seg.data.shards.names import shard_key
from dist_seg.data.shards.object_counts import ObjectCounter
from dist_seg.data.shards.sidecar import INSTANCE_ROLES, SEMANTIC_ROLES
from dist_seg.data.shards.writer import EncodedMembers, write_shard
from dist_seg.errors import DataError


class RefusedSamplesError(Exception):
    """Samples of a shard cannot be packed and may not be skipped."""

    def __init__(self, refusals: tuple[Refusal, ...]) -> None:
        super().__init__(refusals)
        self.refusals = refusals


def pack_shard(job: ShardJob, packing: Packing, out: Path, on_sample: Callable[[], None]) -> PackedShard:
    """Decode the job's samples, check them and write the shard. `on_sample` is called after each sample.

    Unless `skip_bad` is set, raises `RefusedSamplesError` for bad samples. It does so after all samples, so that you
    see more than the first bad one.
    """
    array, skip_bad = packing.images.array, packing.options.skip_bad
    num_classes = len(packing.source.class_names)
    class_pixels, ignored_pixels = np.zeros(num_classes, np.int64), 0
    refusals: list[Refusal] = []
    objects = ObjectCounter(num_classes) if is_instances(packing.source) else None
    channels = ChannelCounter(array) if array else None

    def encoded() -> Iterator[EncodedMembers]:
        nonlocal class_pixels, ignored_pixels
        for sample in job.samples:
            try:
                packed = packed_sample(sample, packing)
            except DataError as error:
                strays = error.count if isinstance(error, StrayAnnotationsError) else 0
                other_kind = isinstance(error, OtherKindError)
                key = shard_key(sample.key)
                refusals.append(Refusal(key=key, reason=str(error), other_kind=other_kind, stray_annotations=strays))
                if not skip_bad and len(refusals) == MAX_REFUSALS:
                    break
            else:
                class_pixels += packed.target.class_pixels
                ignored_pixels += packed.target.ignored_pixels
                if objects is not None and packed.target.annotations is not None:
                    objects.add(packed.target.annotations, packed.problems)
                members = packed.members
                if channels is not None and array:
                    channels.add(decode_npy(members.image, array, members.height, members.width))
                yield members
            on_sample()
        if refusals and not skip_bad:
            raise RefusedSamplesError(tuple(refusals))

    roles = SEMANTIC_ROLES if objects is None else INSTANCE_ROLES
    info = write_shard(out, job.name, encoded(), roles, num_classes)
    return PackedShard(
        split=job.split,
        fingerprint=job.fingerprint,
        info=info,
        class_pixels=tuple(class_pixels.tolist()),
        ignored_pixels=ignored_pixels,
        skipped=tuple(refusals),
        objects=None if objects is None else objects.counts(),
        channels=None if channels is None else channels.counts(),
    )


def check_kinds(shards: Sequence[PackedShard], images: ImageKind) -> None:
    """Raises `DataError` if more samples were left out for their kind of image than were packed."""
    others = [refusal for shard in shards for refusal in shard.skipped if refusal.other_kind]
    kept = sum(shard.info.samples for shard in shards)
    if len(others) > kept:
        raise DataError(
            f"{len(others)} samples are of another kind than the {kept} that can be packed, which are "
            f"{images.description}; the first: {others[0].reason}"
        )
