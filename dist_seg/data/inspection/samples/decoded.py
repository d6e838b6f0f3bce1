"""One packed sample as inspection sees it, whatever its image and its mask are stored as.

The one place to add to for new kinds of images and masks: everything else here works on `SampleView`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.annotations import (
    MAX_LAYERS,
    ImageAnnotations,
    ObjectAnnotation,
    check_annotations,
    parse_annotations,
)
from dist_seg.data.codecs.class_ids import decode_mask
from dist_seg.data.codecs.decode import decode_image
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.label_layers import decode_labels
from dist_seg.data.codecs.npy import Values, check_members, decode_npy, rgb_view
from dist_seg.data.codecs.object_layers import check_object_ids, decode_instances
from dist_seg.data.shards.manifest import Manifest, ShardInfo
from dist_seg.data.shards.sidecar import Sidecar, crc32c
from dist_seg.errors import DataError
from dist_seg.masks.rle import boxes_and_areas
from dist_seg.storage.object_store import Storage

UNKNOWN = -1
"""In a layer: a pixel of which nothing is said."""


@dataclass(frozen=True, kw_only=True)
class SampleView:
    """A decoded sample."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB, 8 bits: of other images what a person would be shown."""
    layers: NDArray[np.int16]
    """(L, H, W) ids whose changes are outlines, or `UNKNOWN`: one layer of classes, one of 0 and 1 for each label, or
    up to three of objects."""
    class_pixels: NDArray[np.int64]
    """Of each class; of instances the pixels of its objects in the layers."""
    ignored_fraction: float
    """Of all pixels, in all layers."""
    values: Values | None = None
    """(H, W, C) what `image` shows, where it does not hold all of it: of arrays."""
    objects: tuple[ObjectAnnotation, ...] | None = None
    """Of instances."""
    boxes: NDArray[np.float64] | None = None
    """(N, 4) x, y, width, height of the objects' exact masks."""
    areas: NDArray[np.int64] | None = None
    """(N,) pixels of them."""


def read_members(storage: Storage, shard: ShardInfo, sidecar: Sidecar, index: int) -> list[bytes]:
    """A sample's members in the order of their roles. Raises `DataError` for a damaged one."""
    found = []
    for role in sidecar.roles:
        member = sidecar.member(index, role)
        data = storage.read_range(shard.name, member.offset, member.length)
        if crc32c(data) != member.crc32c:
            raise DataError(f"{storage.url}/{shard.name}: {sidecar.key(index)}.{member.suffix} is damaged; run verify")
        found.append(data)
    return found


def picture_of(data: bytes, manifest: Manifest, height: int, width: int) -> NDArray[np.uint8]:
    """An image's member as (H, W, 3) RGB; of an array its first three channels, or the first as grey, in one scale for
    all splits. Raises `UndecodableError`."""
    if manifest.image is None:
        return decode_image(data)
    values = decode_npy(data, manifest.image, height, width)
    found = [split.channels for split in manifest.splits.values() if split.channels]
    low = np.array(found[0].low if found else [0] * manifest.image.channels, np.float64)
    high = np.array(found[0].high if found else [manifest.image.largest] * manifest.image.channels, np.float64)
    return rgb_view(values, low, high)


def view_sample(members: list[bytes], manifest: Manifest, height: int, width: int, max_pixels: int) -> SampleView:
    """Decodes a sample. Raises `UndecodableError`, also for one of more than `max_pixels`."""
    if height * width > max_pixels:
        raise UndecodableError(
            f"image: {width}x{height} pixels, more than the allowed {max_pixels}; look at it with a larger "
            "--max-pixels if it is to be trusted"
        )
    encoded, target, *others = members
    match manifest.task:
        case "instance":
            check_members(encoded, target, height, width, array=manifest.image, max_layers=MAX_LAYERS)
            annotations = parse_annotations(others[0])
            check_annotations(annotations, height, width)
            return _instances(encoded, target, annotations, manifest)
        case "multilabel":
            check_members(encoded, target, height, width, array=manifest.image, num_labels=manifest.num_classes)
            labels = decode_labels(target, manifest.num_classes)
            layers = _with_unknown(labels, labels == manifest.ignore_index)
            class_pixels = (labels == 1).sum(axis=(1, 2), dtype=np.int64)
        case _:
            check_members(encoded, target, height, width, array=manifest.image)
            mask = decode_mask(target)
            counts = np.bincount(mask.ravel(), minlength=256)
            class_pixels = counts[: manifest.num_classes].astype(np.int64)
            _check_ids(np.flatnonzero(counts), manifest)
            layers = _with_unknown(mask, mask >= manifest.num_classes)[None]
    return SampleView(
        image=picture_of(encoded, manifest, height, width),
        values=_values_of(encoded, manifest, height, width),
        layers=layers,
        class_pixels=class_pixels,
        ignored_fraction=float(np.mean(layers == UNKNOWN)),
    )


def _with_unknown(values: NDArray[np.uint8], unknown: NDArray[np.bool_]) -> NDArray[np.int16]:
    layers = values.astype(np.int16)
    layers[unknown] = UNKNOWN
    return layers


def _check_ids(ids: NDArray[np.intp], manifest: Manifest) -> None:
    wrong = ids[(ids >= manifest.num_classes) & (ids != manifest.ignore_index)]
    if len(wrong):
        raise UndecodableError(f"mask: class id {int(wrong[0])}, of {manifest.num_classes} classes")


def _values_of(data: bytes, manifest: Manifest, height: int, width: int) -> Values | None:
    return None if manifest.image is None else decode_npy(data, manifest.image, height, width)


def _instances(encoded: bytes, target: bytes, annotations: ImageAnnotations, manifest: Manifest) -> SampleView:
    layers = decode_instances(target, annotations.height)
    check_object_ids(layers, len(annotations.objects))
    pixels = np.bincount(layers.ravel(), minlength=len(annotations.objects) + 1)[1:]
    classes = np.array([found.class_id for found in annotations.objects], np.intp)
    if len(classes) and not 0 <= classes.min() <= classes.max() < manifest.num_classes:
        raise UndecodableError(f"json: an object of class {classes.max()}, of {manifest.num_classes} classes")
    try:
        boxes, areas = boxes_and_areas(
            [found.rle for found in annotations.objects], annotations.height, annotations.width
        )
    except ValueError as error:
        raise UndecodableError(f"json: the mask of an object: {error}") from error
    return SampleView(
        image=picture_of(encoded, manifest, annotations.height, annotations.width),
        values=_values_of(encoded, manifest, annotations.height, annotations.width),
        layers=layers,
        class_pixels=np.bincount(classes, pixels, minlength=manifest.num_classes).astype(np.int64),
        ignored_fraction=0.0,
        objects=annotations.objects,
        boxes=boxes,
        areas=areas,
    )
