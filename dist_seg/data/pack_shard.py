"""Packing one shard, in a worker process or in the one that packs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.arrays import ArrayLayout, Values, decode_npy
from dist_seg.data.channel_statistics import ChannelCounter, ShardChannels
from dist_seg.data.formats import (
    AnySource,
    InstanceSource,
    RawInstances,
    RawSample,
    SampleRef,
    Source,
    is_instances,
    task_of,
)
from dist_seg.data.formats.images import CheckedImage, check_image, encode_mask
from dist_seg.data.instances import EncodedInstances, RawObject, encode_instances
from dist_seg.data.label_layers import PRESENT, checked_labels, encode_labels
from dist_seg.data.manifest import ShardInfo
from dist_seg.data.object_counts import ObjectCounter, ShardObjects
from dist_seg.data.png import value_counts
from dist_seg.data.shard_plan import ShardJob, shard_key
from dist_seg.data.shards import EncodedMembers, write_shard
from dist_seg.data.shrink import Size, shrink_image, shrink_mask, shrink_object, shrunk_size
from dist_seg.data.sidecar import INSTANCE_ROLES, SEMANTIC_ROLES
from dist_seg.errors import DataError
from dist_seg.runtime.storage import StorageError

Raw = TypeVar("Raw", bound=RawSample | RawInstances)

MAX_REFUSALS = 20
"""A shard's samples that are named when packing fails; the rest would only be more of the same."""
MAX_MEMBER_BYTES = 2**32 - 1
"""Of a file in a shard: its index has 32 bits for a length."""
_VOTES, _LOOKED_AT = 20, 100
"""Of a listing's first samples: how many decide what kind the images are, and how many are tried for that."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A sample that cannot be packed, and why."""

    key: str
    reason: str
    """Names the file."""
    other_kind: bool = False
    """It could be packed, with others of its kind."""

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, kw_only=True)
class ImageKind:
    """What all images of a data set have to be."""

    array: ArrayLayout | None
    """None for pictures."""
    where: str
    """What holds such images, as the subject of a sentence."""

    @property
    def images(self) -> str:
        """In words."""
        return f"images of {self.array}" if self.array else "pictures of 8-bit RGB or grey"


PICTURES = ImageKind(array=None, where="")


@dataclass(frozen=True, kw_only=True)
class PackedShard:
    """A whole shard and what was counted while it was written."""

    split: str
    fingerprint: str
    info: ShardInfo
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    skipped: tuple[Refusal, ...]
    objects: ShardObjects | None = None
    """Of instances."""
    channels: ShardChannels | None = None
    """Of arrays."""

    @property
    def left_out(self) -> bool:
        """Whether anything bad was: samples, or annotations of samples that were kept."""
        return bool(self.skipped or (self.objects and self.objects.skipped_annotations))


class OtherKindError(DataError):
    """An image of another kind than those of its data set."""


class RefusedSamplesError(Exception):
    """Samples of a shard cannot be packed and may not be skipped."""

    def __init__(self, refusals: tuple[Refusal, ...]) -> None:
        super().__init__(refusals)
        self.refusals = refusals


def pack_shard(
    job: ShardJob,
    source: AnySource,
    out: Path,
    *,
    kind: ImageKind,
    skip_bad: bool,
    max_pixels: int,
    max_side: int | None,
    on_sample: Callable[[], None],
) -> PackedShard:
    """Decode the job's samples, check them and write the shard. `on_sample` is called once a sample.

    kind: of the images; others are refused.

    Raises `RefusedSamplesError` (all samples are looked at before, so that the user sees more than the first), unless
    `skip_bad`.
    """
    pixels = np.zeros(256, np.int64)
    is_multilabel, num_classes = task_of(source) == "multilabel", len(source.class_names)
    refusals: list[Refusal] = []
    objects = ObjectCounter(len(source.class_names)) if is_instances(source) else None
    channels = ChannelCounter(kind.array) if kind.array else None

    def encoded() -> Iterator[EncodedMembers]:
        for sample in job.samples:
            try:
                if is_instances(source):
                    members, found = encode_instance_sample(
                        sample, source, max_pixels, max_side, skip_bad=skip_bad, kind=kind
                    )
                else:
                    members, mask = encode_sample(sample, cast(Source, source), max_pixels, max_side, kind)
            except StorageError:
                raise
            except DataError as error:
                other_kind = isinstance(error, OtherKindError)
                refusals.append(Refusal(key=shard_key(sample.key), reason=str(error), other_kind=other_kind))
                if not skip_bad and len(refusals) == MAX_REFUSALS:
                    break
            else:
                if objects is not None:
                    objects.add(found.encoded.annotations, found.problems)
                    pixels[:num_classes] += found.encoded.class_pixels
                    classes = found.encoded.annotations.classes
                else:
                    counts = _layer_counts(mask, source.ignore_index) if is_multilabel else value_counts(mask)
                    classes = tuple(np.flatnonzero(counts[:num_classes]).tolist())
                    pixels[:] += counts
                if channels is not None and kind.array:
                    channels.add(decode_npy(members.image, kind.array, members.height, members.width))
                yield replace(members, classes=classes)
            on_sample()
        if refusals and not skip_bad:
            raise RefusedSamplesError(tuple(refusals))

    roles = SEMANTIC_ROLES if objects is None else INSTANCE_ROLES
    info = write_shard(out, job.name, encoded(), roles, num_classes)
    return PackedShard(
        split=job.split,
        fingerprint=job.fingerprint,
        info=info,
        class_pixels=tuple(int(count) for count in pixels[:num_classes]),
        ignored_pixels=int(pixels[source.ignore_index]),
        skipped=tuple(refusals),
        objects=None if objects is None else objects.counts(),
        channels=None if channels is None else channels.counts(),
    )


def _layer_counts(labels_KHW: NDArray[np.uint8], ignore_index: int) -> NDArray[np.int64]:
    """(256,) pixels of each label, and at the ignore index those that are not known, of all layers together."""
    counts = np.zeros(256, np.int64)
    counts[: len(labels_KHW)] = np.count_nonzero(labels_KHW == PRESENT, axis=(1, 2))
    counts[ignore_index] = np.count_nonzero(labels_KHW == ignore_index)
    return counts


def find_kind(samples: Sequence[SampleRef], source: AnySource, max_pixels: int) -> ImageKind:
    """What most of the first samples that can be read are; of two kinds with as many, that of the earlier sample.

    Of the listing alone, so that every machine and every run finds the same. Where none of the first can be read, those
    that follow are tried, and where none can be read at all, what is wrong is said when they are packed.
    """
    votes: dict[ArrayLayout | None, list[str]] = {}
    for number, sample in enumerate(samples):
        if votes and number >= _LOOKED_AT:
            break
        try:
            raw: RawSample | RawInstances = _loaded(sample, partial(source.load, sample))
            array = check_image(raw.image, sample.where, max_pixels).array
        except StorageError:
            raise
        except DataError:
            continue
        votes.setdefault(array, []).append(sample.where)
        if len(votes[array]) > _VOTES // 2 or sum(map(len, votes.values())) == _VOTES:
            break
    if not votes:
        return PICTURES
    array = max(votes, key=lambda kind: len(votes[kind]))  # the first of those with the most
    return ImageKind(array=array, where=f"the data set (by most of its first images, such as {votes[array][0]})")


def check_kinds(shards: Sequence[PackedShard], kind: ImageKind) -> None:
    """Raises `DataError` where more samples are left out for being of another kind than are packed."""
    others = [refusal for shard in shards for refusal in shard.skipped if refusal.other_kind]
    kept = sum(shard.info.samples for shard in shards)
    if len(others) > kept:
        raise DataError(
            f"{len(others)} samples are of another kind than the {kept} that can be packed, which are {kind.images}; "
            f"the first: {others[0].reason}"
        )


def _checked_image(image: bytes | Values, sample: SampleRef, max_pixels: int, kind: ImageKind) -> CheckedImage:
    """Raises `DataError` for one that cannot be used, or is of another kind than those of the data set."""
    checked = check_image(image, sample.where, max_pixels)
    if checked.array != kind.array:
        raise OtherKindError(
            f"{sample.where}: is {checked.array or 'a picture of 8-bit RGB or grey'}, {kind.where} holds "
            f"{kind.images}; all must be alike: convert what differs, or pack it as a data set of its own"
        )
    return checked


@dataclass(frozen=True, kw_only=True)
class _Instances:
    """An encoded image's objects, and what was left out."""

    encoded: EncodedInstances
    problems: tuple[str, ...]


def encode_instance_sample(
    sample: SampleRef,
    source: InstanceSource,
    max_pixels: int,
    max_side: int | None = None,
    *,
    skip_bad: bool,
    kind: ImageKind = PICTURES,
) -> tuple[EncodedMembers, _Instances]:
    """Read a sample and check image and annotations. Raises `DataError` naming the file.

    max_side: a larger image is shrunk, and its objects. skip_bad: annotations that cannot be used are left out and
    named in the result.
    """
    raw = _loaded(sample, lambda: source.load(sample))
    if not isinstance(raw, RawInstances):
        raise DataError(f"{sample.where}: the reader gave a {type(raw).__name__}; of instances it must be RawInstances")
    if raw.problems and not skip_bad:
        raise DataError("\n".join(raw.problems))
    image = _checked_image(raw.image, sample, max_pixels, kind)
    if (raw.height, raw.width) != (image.height, image.width):
        raise DataError(
            f"{sample.mask_where or sample.where}: annotations for {raw.width}x{raw.height} pixels (width x height), "
            f"their image {sample.where} is {image.width}x{image.height}"
            f"{_exif_hint((raw.height, raw.width), image.height, image.width)}"
        )
    objects = raw.objects
    if size := shrunk_size(image.height, image.width, max_side):
        objects = _shrunk_objects(objects, image, size, sample.where)
        image = shrink_image(image, size)
    encoded = encode_instances(
        objects,
        height=image.height,
        width=image.width,
        num_classes=len(source.class_names),
        image_id=raw.image_id,
        file_name=raw.file_name,
        where=sample.where,
    )
    members = EncodedMembers(
        key=shard_key(sample.key),
        height=image.height,
        width=image.width,
        image=image.data,
        image_suffix=image.suffix,
        target=encoded.layers,
        annotations=encoded.annotations.to_json(),
    )
    _check_lengths(members, sample.where)
    return members, _Instances(encoded=encoded, problems=raw.problems)


def _shrunk_objects(objects: Sequence[RawObject], image: CheckedImage, size: Size, where: str) -> tuple[RawObject, ...]:
    shrunk = []
    for raw in objects:
        try:
            shrunk.append(shrink_object(raw, image.height, image.width, size))
        except ValueError as error:
            raise DataError(f"{where}: the mask of object {raw.id} is not of the image's size: {error}") from error
    return tuple(shrunk)


def _loaded(sample: SampleRef, load: Callable[[], Raw]) -> Raw:
    try:
        return load()
    except DataError:
        raise
    except OSError as error:
        raise StorageError(f"{sample.where}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        error.add_note(f"The data set's reader failed on {sample.where}.")
        raise


def encode_sample(
    sample: SampleRef, source: Source, max_pixels: int, max_side: int | None = None, kind: ImageKind = PICTURES
) -> tuple[EncodedMembers, NDArray[np.uint8]]:
    """Read a sample, its mask (H, W) or (K, H, W), and check that both fit; shrink what is larger than `max_side`.

    Raises `DataError` naming the file.
    """
    raw = _loaded(sample, lambda: source.load(sample))
    image = _checked_image(raw.image, sample, max_pixels, kind)
    mask_where = sample.mask_where or sample.where
    is_multilabel = task_of(source) == "multilabel"
    if is_multilabel:
        mask = checked_labels(raw.mask, mask_where, source.class_names)
    else:
        _check_mask_type(raw.mask, mask_where)
    size = raw.mask.shape[-2:]
    if size != (image.height, image.width):
        raise DataError(
            f"{mask_where}: the mask is {size[1]}x{size[0]} (width x height), its image {sample.where} "
            f"{image.width}x{image.height}{_exif_hint(size, image.height, image.width)}; they must have one size"
        )
    if not is_multilabel:
        mask = checked_class_ids(raw.mask, mask_where, len(source.class_names), source.ignore_index)
    if smaller := shrunk_size(image.height, image.width, max_side):
        image, mask = shrink_image(image, smaller), shrink_mask(mask, smaller)
    members = EncodedMembers(
        key=shard_key(sample.key),
        height=image.height,
        width=image.width,
        image=image.data,
        image_suffix=image.suffix,
        target=encode_labels(mask) if is_multilabel else encode_mask(mask),
        target_suffix="multi.png" if is_multilabel else "seg.png",
    )
    _check_lengths(members, sample.where)
    return members, mask


def _check_lengths(members: EncodedMembers, where: str) -> None:
    for suffix, data in members.members:
        if len(data) > MAX_MEMBER_BYTES:
            raise DataError(
                f"{where}: {members.width}x{members.height} pixels take {len(data)} bytes as .{suffix}, a file in a "
                f"shard can have {MAX_MEMBER_BYTES}; shrink the image (--max-side), or cut it into several"
            )


def _check_mask_type(mask: object, where: str) -> None:
    if not isinstance(mask, np.ndarray):
        raise DataError(f"{where}: the reader gave a {type(mask).__name__} for the mask; it must be a NumPy array")
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        shape = "x".join(str(length) for length in mask.shape)
        raise DataError(
            f"{where}: the reader gave a mask of shape {shape} and type {mask.dtype}; it must be (height, width) class "
            "ids of an integer type or bool"
        )


def checked_class_ids(
    mask: NDArray[np.integer] | NDArray[np.bool_], where: str, num_classes: int, ignore_index: int
) -> NDArray[np.uint8]:
    """The (H, W) mask as uint8. Raises `DataError` naming the first value out of range and its position."""
    if mask.dtype == np.uint8:
        others = value_counts(mask)
        others[:num_classes] = others[ignore_index] = 0
        if not others.any():
            return np.asarray(mask, np.uint8)
    wrong = ((mask < 0) | (mask >= num_classes)) & (mask != ignore_index)
    if wrong.any():
        y, x = np.unravel_index(int(wrong.argmax()), mask.shape)
        raise DataError(
            f"{where}: class id {mask[y, x]} at (x={x}, y={y}) ({int(wrong.sum())} such pixels); the data set has "
            f"{num_classes} classes, 0 to {num_classes - 1}, and {ignore_index} for pixels that are ignored"
        )
    return mask.astype(np.uint8)


def _exif_hint(mask_shape: tuple[int, ...], height: int, width: int) -> str:
    if mask_shape != (width, height) or height == width:
        return ""
    return " upright (is it drawn on the picture as stored, and not as its EXIF orientation shows it?)"
