"""Samples whatever the kind of their targets: which kind there is, and reading and decoding over all of them.

A new kind of target is a module with an implementation of `TargetKind`, and a line below.
"""

from collections.abc import Sequence

from dist_seg.data.codecs.class_ids import ClassIds
from dist_seg.data.codecs.decode import decode_image
from dist_seg.data.codecs.encoded import EncodedSample, MaskKind, TargetClasses, TargetKind
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.label_layers import LabelLayers
from dist_seg.data.codecs.npy import ArrayLayout, Values, check_image, decode_npy
from dist_seg.data.codecs.object_layers import ObjectLayers

TASKS = ("semantic", "multilabel", "instance")


def target_kind(task: str, classes: TargetClasses) -> TargetKind:
    """The kind of target that a data set packed for one of `TASKS` has."""
    return ObjectLayers(classes=classes) if task == "instance" else mask_kind(task, classes)


def mask_kind(task: str, classes: TargetClasses) -> MaskKind:
    """As `target_kind`, for a task whose targets are masks."""
    match task:
        case "semantic":
            return ClassIds(classes=classes)
        case "multilabel":
            return LabelLayers(classes=classes)
    raise ValueError(f"no kind of mask for the task {task!r}")


def read_sample(
    members: Sequence[bytes], kind: TargetKind, array: ArrayLayout | None, *, key: str, height: int, width: int
) -> EncodedSample:
    """The sample that consists of these members, checked as far as that goes without decoding.

    members: the image's first. array: layout of array images. Raises `UndecodableError` for members that are not an
    image of this size and its target.
    """
    image, target, *others = members
    check_image(image, array, height, width)
    return EncodedSample(
        key=key,
        image=image,
        target=target,
        height=height,
        width=width,
        kind=kind,
        annotations=kind.read([target, *others], height, width),
        array=array,
    )


def decode_sample_image(encoded: EncodedSample) -> Values:
    """A sample's image: (H, W, 3) uint8 RGB, or an array (H, W, C). Raises `UndecodableError`."""
    if encoded.array is None:
        return decode_image(encoded.image)
    return decode_npy(encoded.image, encoded.array, encoded.height, encoded.width)


def why_undecodable(encoded: EncodedSample) -> str | None:
    """None where the sample can be decoded."""
    role = "image"
    try:
        decode_sample_image(encoded)
        role = "mask"
        encoded.kind.decode(encoded)
    except UndecodableError as error:
        return f"{role}: {error}"
    return None
