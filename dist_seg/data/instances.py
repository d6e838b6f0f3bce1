"""Instances on the way into a shard: masks that may overlap, as few layers of object ids, and their annotations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.annotations import MAX_LAYERS, MAX_OBJECTS, ImageAnnotations, ObjectAnnotation
from dist_seg.data.png import encode_grey
from dist_seg.errors import DataError
from dist_seg.masks.rle import decode_mask, mask_extent

SIDE_BINS = 128
"""Of a histogram of objects' sides: bin i begins at 2^(i / 8) pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawObject:
    """An object of a raw data set."""

    id: int
    class_id: int
    crowd: bool
    rle: str
    """COCO's compressed run lengths, for the upright image's size."""
    area: float | None = None
    """None: the mask's pixels."""
    bbox: tuple[float, float, float, float] | None = None
    """x, y, width, height; None: the mask's."""


@dataclass(frozen=True, kw_only=True)
class EncodedInstances:
    """An image's objects, as a shard holds them."""

    layers: bytes
    """Grey 16-bit PNG of L layers, one below the other."""
    annotations: ImageAnnotations
    class_pixels: tuple[int, ...]
    """Pixels of each class's objects in the layers, crowds apart."""


def encode_instances(
    objects: Sequence[RawObject],
    *,
    height: int,
    width: int,
    num_classes: int,
    image_id: int,
    file_name: str,
    where: str = "",
) -> EncodedInstances:
    """Gives every object a layer where it covers no other, crowds last, and what is left of the last layers' room.

    where: what errors name the image by; its file name unless given. Raises `DataError` for more objects than ids
    reach, and for an object of no class or with a mask that does not fit the image or has no pixel.
    """
    where = where or file_name
    if len(objects) > MAX_OBJECTS:
        raise DataError(f"{where}: {len(objects)} objects; {MAX_OBJECTS} are the most of one image")
    layers: list[NDArray[np.uint16]] = [np.zeros((height, width), np.uint16)]
    annotated: dict[int, ObjectAnnotation] = {}
    class_pixels = np.zeros(num_classes, np.int64)
    for index in sorted(range(len(objects)), key=lambda i: objects[i].crowd):
        raw = objects[index]
        mask = _checked_mask(raw, height, width, num_classes, where)
        pixels = int(mask.sum())
        layer, free = _place_for(mask, pixels, layers)
        layers[layer][free] = index + 1
        visible = int(free.sum())
        if not raw.crowd:
            class_pixels[raw.class_id] += visible
        annotated[index] = ObjectAnnotation(
            id=raw.id,
            class_id=raw.class_id,
            crowd=raw.crowd,
            area=float(pixels if raw.area is None else raw.area),
            bbox=_box_of(mask) if raw.bbox is None else raw.bbox,
            rle=raw.rle,
            pixels=pixels,
            layer=layer,
            hidden=pixels - visible,
        )
    return EncodedInstances(
        layers=encode_grey(np.concatenate(layers)),
        annotations=ImageAnnotations(
            image_id=image_id,
            file_name=file_name,
            height=height,
            width=width,
            objects=tuple(annotated[index] for index in range(len(objects))),
        ),
        class_pixels=tuple(class_pixels.tolist()),
    )


def _checked_mask(raw: RawObject, height: int, width: int, num_classes: int, where: str) -> NDArray[np.bool_]:
    if not 0 <= raw.class_id < num_classes:
        raise DataError(f"{where}: object {raw.id} is of class {raw.class_id}; the classes are 0 to {num_classes - 1}")
    try:
        mask = decode_mask(raw.rle, height, width)
    except ValueError as error:
        raise DataError(f"{where}: the mask of object {raw.id} is not of {width}x{height} pixels: {error}") from error
    if not mask.any():
        raise DataError(f"{where}: the mask of object {raw.id} has no pixel")
    return mask


def _place_for(mask: NDArray[np.bool_], pixels: int, layers: list[NDArray[np.uint16]]) -> tuple[int, NDArray[np.bool_]]:
    """The first layer with room for the whole mask, made if need be; else the one with the most, and its free part."""
    most, best, room = -1, 0, mask
    for number, layer in enumerate(layers):
        free = mask & (layer == 0)
        count = int(free.sum())
        if count == pixels:
            return number, free
        if count > most:
            most, best, room = count, number, free
    if len(layers) < MAX_LAYERS:
        layers.append(np.zeros_like(layers[0]))
        return len(layers) - 1, mask
    return best, room


def _box_of(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    rows, columns = mask_extent(mask)
    x, y = columns.start, rows.start
    return float(x), float(y), float(columns.stop - x), float(rows.stop - y)


def side_histogram(areas: Sequence[float]) -> NDArray[np.int64]:
    """(SIDE_BINS,): how many objects of these areas, in pixels, have a side in each bin."""
    sides = np.sqrt(np.maximum(np.asarray(areas, np.float64), 1))
    bins = np.minimum((np.log2(sides) * 8).astype(np.int64), SIDE_BINS - 1)
    return np.bincount(bins, minlength=SIDE_BINS)


def side_percentiles(histogram: Sequence[int], percentiles: Sequence[float]) -> tuple[float, ...]:
    """Sides in pixels, to a twelfth; empty for no object."""
    counts = np.cumsum(histogram)
    if not len(counts) or counts[-1] == 0:
        return ()
    bins = np.searchsorted(counts, np.asarray(percentiles) / 100 * counts[-1])
    return tuple(round(float(2 ** ((index + 0.5) / 8)), 1) for index in bins)
