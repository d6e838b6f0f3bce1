"""Objects whose masks may overlap: as few layers of object ids as possible, and their annotations.

`KEY.inst.png` is a grey 16-bit PNG of the layers one below the other, `KEY.json` holds the annotations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.annotations import (
    EVERY_CLASS,
    MAX_LAYERS,
    MAX_OBJECTS,
    ImageAnnotations,
    ObjectAnnotation,
    check_annotations,
    parse_annotations,
)
from dist_seg.data.codecs.decode import opened_picture
from dist_seg.data.codecs.encoded import (
    DrawnTarget,
    EncodedSample,
    EncodedTarget,
    Ids,
    Region,
    TargetClasses,
    TargetContents,
)
from dist_seg.data.codecs.headers import UndecodableError, check_mask
from dist_seg.data.codecs.png import encode_grey
from dist_seg.errors import DataError
from dist_seg.masks.drawing import diagonals, outline_of
from dist_seg.masks.palette import Rgb, default_palette
from dist_seg.masks.rle import boxes_and_areas, decode_mask, mask_extent
from dist_seg.runtime.plural import count_of

_OBJECT_COLORS = default_palette(64)[1:]
"""Neighbours in the list are easy to tell apart."""
_CROWD_COLOR: Rgb = (255, 255, 255)
_FILL = 0.5


@dataclass(frozen=True, kw_only=True)
class ObjectLayers:
    """The objects of instance segmentation."""

    classes: TargetClasses

    has_objects: ClassVar[bool] = True
    overlaps: ClassVar[bool] = False
    border: ClassVar[int] = 0
    layered: ClassVar[bool] = True
    bits: ClassVar[Literal[16]] = 16
    batch_dtype: ClassVar[Literal["int32"]] = "int32"
    num_known_ids: ClassVar[None] = None
    class_map: ClassVar[None] = None
    """Layers hold ids of objects; the objects' classes are replaced when their annotations are read."""
    drawn_how: ClassVar[str] = "outlined by class"

    def read(self, members: Sequence[bytes], height: int, width: int) -> ImageAnnotations:
        layers, *others = members
        what = "a 16-bit grey PNG of object ids"
        check_mask(layers, height, width, bits=16, layers=range(1, MAX_LAYERS + 1), what=what)
        if not others:
            raise UndecodableError("json: is missing: the shard's index lists no annotations")
        annotations = parse_annotations(others[0])
        check_annotations(annotations, height, width)
        new_ids = self.classes.new_ids
        return annotations if new_ids is None else mapped_annotations(annotations, new_ids, self.classes.num_classes)

    def decode(self, sample: EncodedSample, region: Region | None = None) -> NDArray[np.int16]:
        """(L, H, W) or (L, h, w) int16."""
        ids_LHW = decode_object_layers(sample.target, sample.height)
        self.check(ids_LHW, sample)
        if region is None:
            return ids_LHW
        y, x, h, w = region
        return ids_LHW[:, y : y + h, x : x + w]

    def check(self, ids: Ids, sample: EncodedSample) -> None:
        """Every id must belong to an annotation."""
        count = len(_objects_of(sample))
        if int(ids.max(initial=0)) > count:
            raise UndecodableError(f"layers with object ids {ids.min()} to {ids.max()}, for {count} annotations")

    def contents(self, sample: EncodedSample) -> TargetContents:
        layers, objects, num_classes = self.decode(sample), _objects_of(sample), self.classes.num_classes
        pixels = np.bincount(layers.ravel(), minlength=len(objects) + 1)[1:]
        classes = np.array(self._classes_of(objects), np.intp)
        try:
            boxes, areas = boxes_and_areas([found.rle for found in objects], sample.height, sample.width)
        except ValueError as error:
            raise UndecodableError(f"json: the mask of an object: {error}") from error
        return TargetContents(
            layers=layers,
            class_pixels=np.bincount(classes, pixels, minlength=num_classes).astype(np.int64),
            objects=objects,
            boxes=boxes,
            areas=areas,
        )

    def draw(
        self,
        sample: EncodedSample,
        picture: NDArray[np.uint8],
        palette: Sequence[Rgb],
        shrunk: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    ) -> DrawnTarget:
        """The exact masks over the picture, after it is shrunk: there may be hundreds of them."""
        assert sample.annotations is not None
        classes = self._classes_of(sample.annotations.objects)
        return DrawnTarget(
            picture=draw_annotations(shrunk(picture), sample.annotations, palette),
            remark=count_of(len(classes), "object"),
            classes=frozenset(classes),
        )

    def legend(self, classes: Sequence[tuple[str, Rgb]], drawn: Sequence[DrawnTarget]) -> list[tuple[str, Rgb]]:
        """Only the classes that are drawn: COCO has 80."""
        seen = set[int]().union(*(target.classes for target in drawn))
        return [*(classes[class_id] for class_id in sorted(seen)), ("crowd", _CROWD_COLOR)]

    def _classes_of(self, objects: Sequence[ObjectAnnotation]) -> list[int]:
        """Each object's class. Raises `UndecodableError` for one that the data set does not have."""
        classes, count = [found.class_id for found in objects], self.classes.num_classes
        for class_id in classes:
            if not 0 <= class_id < count:
                raise UndecodableError(f"json: an object has class {class_id}, the data set has {count} classes")
        return classes


@dataclass(frozen=True, kw_only=True, slots=True)
class RawObject:
    """One object of a raw data set."""

    id: int
    class_id: int
    crowd: bool
    rle: str
    """COCO's compressed run lengths for the size of the upright image."""
    area: float | None = None
    """Pixels; None for those of the mask."""
    bbox: tuple[float, float, float, float] | None = None
    """x, y, width, height; None for the box of the mask."""


def encode_instances(
    objects: Sequence[RawObject],
    *,
    height: int,
    width: int,
    num_classes: int,
    image_id: int,
    file_name: str,
    where: str = "",
) -> EncodedTarget:
    """Draws every object into a layer where it covers no other one, crowds last.

    An object that fits into none of `MAX_LAYERS` layers gets the free pixels of the layer that has most of them.
    where: the name of the image in errors; its file name unless given. Raises `DataError` for too many objects, and for
    an object whose class does not exist or whose mask does not fit the image or has no pixel.
    """
    where = where or file_name
    if len(objects) > MAX_OBJECTS:
        raise DataError(f"{where}: {len(objects)} objects; an image can have at most {MAX_OBJECTS}")
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
    annotations = ImageAnnotations(
        image_id=image_id,
        file_name=file_name,
        height=height,
        width=width,
        objects=tuple(annotated[index] for index in range(len(objects))),
    )
    return EncodedTarget(
        data=encode_grey(np.concatenate(layers)),
        suffix="inst.png",
        class_pixels=tuple(class_pixels.tolist()),
        ignored_pixels=0,
        classes=annotations.classes,
        annotations=annotations,
    )


def _checked_mask(raw: RawObject, height: int, width: int, num_classes: int, where: str) -> NDArray[np.bool_]:
    if not 0 <= raw.class_id < num_classes:
        raise DataError(f"{where}: object {raw.id} has class {raw.class_id}; the classes are 0 to {num_classes - 1}")
    try:
        mask = decode_mask(raw.rle, height, width)
    except ValueError as error:
        raise DataError(f"{where}: the mask of object {raw.id} is not {width}x{height} pixels: {error}") from error
    if not mask.any():
        raise DataError(f"{where}: the mask of object {raw.id} has no pixel")
    return mask


def _place_for(mask: NDArray[np.bool_], pixels: int, layers: list[NDArray[np.uint16]]) -> tuple[int, NDArray[np.bool_]]:
    """The first layer with room for the whole mask, a new one if needed; otherwise the layer with the most room. Also
    the part of the mask that is free there.
    """
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


def decode_object_layers(data: bytes, height: int) -> NDArray[np.int16]:
    """(L, height, W) int16 layers of object ids, from a grey 16-bit PNG that holds them one below the other.

    Raises `UndecodableError`.
    """
    with opened_picture(data) as image:
        if not image.mode.startswith("I") or image.height % height:
            raise UndecodableError(
                f"layers must be 16-bit grey with {height} rows each, not {image.mode} with {image.height} rows"
            )
        ids = np.array(image)
    if int(ids.max(initial=0)) > np.iinfo(np.int16).max:
        raise UndecodableError(f"object id {int(ids.max())}; the largest possible id is {np.iinfo(np.int16).max}")
    return ids.astype(np.int16).reshape(-1, height, ids.shape[1])


def _objects_of(sample: EncodedSample) -> tuple[ObjectAnnotation, ...]:
    return sample.annotations.objects if sample.annotations else ()


def mapped_annotations(annotations: ImageAnnotations, table: NDArray[np.uint8], num_classes: int) -> ImageAnnotations:
    """The objects with their new classes. An object of an ignored class becomes a crowd of every class.

    table: (256,) the new class for each old one. Raises UndecodableError for a class that no data set can have.
    """
    objects = []
    for found in annotations.objects:
        if not 0 <= found.class_id < len(table):
            raise UndecodableError(f"json: object {found.id} has class {found.class_id}")
        class_id = int(table[found.class_id])
        if class_id >= num_classes:
            objects.append(replace(found, class_id=EVERY_CLASS, crowd=True))
        else:
            objects.append(replace(found, class_id=class_id))
    return replace(annotations, objects=tuple(objects))


def draw_annotations(
    picture: NDArray[np.uint8], annotations: ImageAnnotations, palette: Sequence[Rgb]
) -> NDArray[np.uint8]:
    """The picture (h, w, 3) with its objects: each is filled in a colour of its own and outlined in its class's colour.
    Crowds are hatched in white.

    picture: the annotated image at any scale. Raises `UndecodableError` for a mask that does not fit the image.
    """
    height, width = picture.shape[:2]
    rows = (np.arange(height) + 0.5) * annotations.height // height
    columns = (np.arange(width) + 0.5) * annotations.width // width
    at = np.ix_(rows.astype(np.intp), columns.astype(np.intp))
    lines = diagonals(height, width)
    drawn, outlines = picture.astype(np.float32), []
    # Small objects last: a large one would cover them.
    for i, found in sorted(enumerate(annotations.objects), key=lambda numbered: -numbered[1].pixels):
        try:
            mask = decode_mask(found.rle, annotations.height, annotations.width)[at]
        except ValueError as error:
            raise UndecodableError(f"json: the mask of object {found.id}: {error}") from error
        filled = mask & lines if found.crowd else mask
        color = _CROWD_COLOR if found.crowd else _OBJECT_COLORS[i % len(_OBJECT_COLORS)]
        drawn[filled] = (1 - _FILL) * drawn[filled] + _FILL * np.asarray(color, np.float32)
        outlines.append((outline_of(mask, at_edges=False), _CROWD_COLOR if found.crowd else palette[found.class_id]))
    for outline, color in outlines:  # on top of every filling
        drawn[outline] = color
    return np.rint(drawn).astype(np.uint8)
