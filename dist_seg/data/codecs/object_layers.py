"""Instances on the way into a shard: masks that may overlap, as few layers of object ids, and their annotations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.annotations import MAX_LAYERS, MAX_OBJECTS, ImageAnnotations, ObjectAnnotation
from dist_seg.data.codecs.decode import opened_picture
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.png import encode_grey
from dist_seg.errors import DataError
from dist_seg.masks.rle import decode_mask, mask_extent


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


def decode_instances(data: bytes, height: int) -> NDArray[np.int16]:
    """(L, height, W) int16 layers of object ids of a grey 16-bit PNG that holds them one below the other.

    Raises `UndecodableError`.
    """
    with opened_picture(data) as image:
        if not image.mode.startswith("I") or image.height % height:
            raise UndecodableError(f"layers must be 16-bit grey, each {height} rows: {image.mode}, {image.height} rows")
        ids = np.array(image)
    if int(ids.max(initial=0)) > np.iinfo(np.int16).max:
        raise UndecodableError(f"object id {int(ids.max())}; ids reach {np.iinfo(np.int16).max}")
    return ids.astype(np.int16).reshape(-1, height, ids.shape[1])


def check_object_ids(ids: NDArray[np.int16], num_objects: int) -> None:
    """Raises `UndecodableError` for an id that no annotation belongs to."""
    if int(ids.max(initial=0)) > num_objects or int(ids.min(initial=0)) < 0:
        raise UndecodableError(f"layers with object ids {ids.min()} to {ids.max()}, for {num_objects} annotations")
