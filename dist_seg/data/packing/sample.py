"""Encodes one sample of a raw data set for a shard: read, checked, and shrunk if it is too large."""

from collections.abc import Sequence
from dataclasses import dataclass

from dist_seg.data.codecs.encoded import EncodedTarget, TargetClasses
from dist_seg.data.codecs.object_layers import RawObject, encode_instances
from dist_seg.data.codecs.targets import mask_kind
from dist_seg.data.packing.image_kind import PICTURES, ImageKind, checked_image
from dist_seg.data.packing.options import Packing
from dist_seg.data.packing.shrink import Size, shrink_image, shrink_mask, shrink_object, shrunk_size
from dist_seg.data.raw.images import CheckedImage
from dist_seg.data.raw.source import InstanceSource, RawInstances, SampleRef, Source, is_instances, load_sample, task_of
from dist_seg.data.shards.names import shard_key
from dist_seg.data.shards.writer import EncodedMembers
from dist_seg.errors import DataError

MAX_MEMBER_BYTES = 2**32 - 1
"""Largest file in a shard: its sidecar has 32 bits for a length."""


@dataclass(frozen=True, kw_only=True)
class PackedSample:
    """A sample as it goes into a shard."""

    members: EncodedMembers
    target: EncodedTarget
    problems: tuple[str, ...] = ()
    """For each annotation that was left out: what is wrong with it."""


def packed_sample(sample: SampleRef, packing: Packing) -> PackedSample:
    """Read, check and encode a sample. Raises `DataError` naming the file."""
    source, options, images = packing.source, packing.options, packing.images
    limits = (options.max_pixels, options.max_side)
    if is_instances(source):
        return encode_instance_sample(sample, source, *limits, skip_bad=options.skip_bad, kind=images)
    return encode_sample(sample, source, *limits, images)


def encode_instance_sample(
    sample: SampleRef,
    source: InstanceSource,
    max_pixels: int,
    max_side: int | None = None,
    *,
    skip_bad: bool,
    kind: ImageKind = PICTURES,
) -> PackedSample:
    """Read a sample of instances, check image and annotations, and encode them. Raises `DataError` naming the file.

    max_side: a larger image is shrunk with its objects. skip_bad: unusable annotations are left out and named in the
    result.
    """
    raw = load_sample(source, sample)
    if not isinstance(raw, RawInstances):
        raise DataError(
            f"{sample.where}: the reader gave a {type(raw).__name__}; for instances it must be RawInstances"
        )
    if raw.problems and not skip_bad:
        raise DataError("\n".join(raw.problems))
    image = checked_image(raw.image, sample, max_pixels, kind)
    if (raw.height, raw.width) != (image.height, image.width):
        raise DataError(
            f"{sample.mask_where or sample.where}: annotations for {raw.width}x{raw.height} pixels (width x height), "
            f"but their image {sample.where} is {image.width}x{image.height}"
            f"{_exif_hint((raw.height, raw.width), image.height, image.width)}"
        )
    objects = raw.objects
    if size := shrunk_size(image.height, image.width, max_side):
        objects = _shrunk_objects(objects, image, size, sample.where)
        image = shrink_image(image, size)
    target = encode_instances(
        objects,
        height=image.height,
        width=image.width,
        num_classes=len(source.class_names),
        image_id=raw.image_id,
        file_name=raw.file_name,
        where=sample.where,
    )
    return PackedSample(members=_members(sample, image, target), target=target, problems=raw.problems)


def _shrunk_objects(objects: Sequence[RawObject], image: CheckedImage, size: Size, where: str) -> tuple[RawObject, ...]:
    shrunk = []
    for raw in objects:
        try:
            shrunk.append(shrink_object(raw, image.height, image.width, size))
        except ValueError as error:
            raise DataError(f"{where}: the mask of object {raw.id} does not have the image's size: {error}") from error
    return tuple(shrunk)


def encode_sample(
    sample: SampleRef, source: Source, max_pixels: int, max_side: int | None = None, kind: ImageKind = PICTURES
) -> PackedSample:
    """Read an image and its mask, (H, W) or (K, H, W), check that they fit, and encode them.

    max_side: a larger image is shrunk with its mask.

    Raises `DataError` naming the file.
    """
    raw = load_sample(source, sample)
    image = checked_image(raw.image, sample, max_pixels, kind)
    mask_where = sample.mask_where or sample.where
    masks = mask_kind(task_of(source), TargetClasses.as_packed(len(source.class_names), source.ignore_index))
    masks.check_array(raw.mask, mask_where, source.class_names)
    size = raw.mask.shape[-2:]
    if size != (image.height, image.width):
        raise DataError(
            f"{mask_where}: the mask is {size[1]}x{size[0]} (width x height), its image {sample.where} "
            f"{image.width}x{image.height}{_exif_hint(size, image.height, image.width)}; both must have the same size"
        )
    mask = masks.checked(raw.mask, mask_where, source.class_names)
    if smaller := shrunk_size(image.height, image.width, max_side):
        image, mask = shrink_image(image, smaller), shrink_mask(mask, smaller)
    target = masks.encode(mask)
    return PackedSample(members=_members(sample, image, target), target=target)


def _members(sample: SampleRef, image: CheckedImage, target: EncodedTarget) -> EncodedMembers:
    members = EncodedMembers(
        key=shard_key(sample.key),
        height=image.height,
        width=image.width,
        image=image.data,
        image_suffix=image.suffix,
        target=target.data,
        annotations=target.annotations.to_json() if target.annotations else None,
        target_suffix=target.suffix,
        classes=target.classes,
    )
    _check_lengths(members, sample.where)
    return members


def _check_lengths(members: EncodedMembers, where: str) -> None:
    for suffix, data in members.members:
        if len(data) > MAX_MEMBER_BYTES:
            raise DataError(
                f"{where}: {members.width}x{members.height} pixels take {len(data)} bytes as .{suffix}, but a file in "
                f"a shard can have at most {MAX_MEMBER_BYTES}; shrink the image (--max-side), or cut it into several"
            )


def _exif_hint(mask_shape: tuple[int, ...], height: int, width: int) -> str:
    if mask_shape != (width, height) or height == width:
        return ""
    return " upright (was the mask drawn on the stored picture, before its EXIF orientation was applied?)"
