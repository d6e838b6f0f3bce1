"""One sample of a raw data set as it lies in a shard: read, checked, shrunk where it is too large, and encoded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.label_layers import checked_labels, encode_labels
from dist_seg.data.codecs.object_layers import EncodedInstances, RawObject, encode_instances
from dist_seg.data.codecs.png import value_counts
from dist_seg.data.packing.image_kind import PICTURES, ImageKind, checked_image
from dist_seg.data.packing.shrink import Size, shrink_image, shrink_mask, shrink_object, shrunk_size
from dist_seg.data.raw.images import CheckedImage, encode_mask
from dist_seg.data.raw.source import InstanceSource, RawInstances, SampleRef, Source, loaded, task_of
from dist_seg.data.shards.names import shard_key
from dist_seg.data.shards.writer import EncodedMembers
from dist_seg.errors import DataError

MAX_MEMBER_BYTES = 2**32 - 1
"""Of a file in a shard: its index has 32 bits for a length."""


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
    raw = loaded(sample, lambda: source.load(sample))
    if not isinstance(raw, RawInstances):
        raise DataError(f"{sample.where}: the reader gave a {type(raw).__name__}; of instances it must be RawInstances")
    if raw.problems and not skip_bad:
        raise DataError("\n".join(raw.problems))
    image = checked_image(raw.image, sample, max_pixels, kind)
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


def encode_sample(
    sample: SampleRef, source: Source, max_pixels: int, max_side: int | None = None, kind: ImageKind = PICTURES
) -> tuple[EncodedMembers, NDArray[np.uint8]]:
    """Read a sample, its mask (H, W) or (K, H, W), and check that both fit; shrink what is larger than `max_side`.

    Raises `DataError` naming the file.
    """
    raw = loaded(sample, lambda: source.load(sample))
    image = checked_image(raw.image, sample, max_pixels, kind)
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
