"""`KEY.json` of an instance sample: its objects, with the fields of COCO's annotations and the exact masks.

Object i of the list has the pixel value i + 1 in the layers of `KEY.inst.png`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.masks.rle import boxes_and_areas

MAX_LAYERS = 3
MAX_OBJECTS = 32767
"""Ids have 16 bits in the PNG, and become signed 16-bit integers inside DALI."""
EVERY_CLASS = -1
"""Class of an object that matches every class, as a crowd. A run gives it to objects of ignored classes. Never in a
shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectAnnotation:
    """One annotated object."""

    id: int
    """The annotation's id in the raw data set."""
    class_id: int
    """Index into the class names, or `EVERY_CLASS`."""
    crowd: bool
    """A region of many objects that were not separated. It is neither trained nor scored."""
    area: float
    """Pixels: the area that the annotation gives, or else the mask's. COCO's scores use this area, and the box that the
    annotation gives; everything else is measured on the mask."""
    bbox: tuple[float, float, float, float]
    """x, y, width, height: the box that the annotation gives, or else the mask's."""
    rle: str
    """The exact mask: COCO's compressed run lengths for the image's size."""
    pixels: int
    """Pixels of the exact mask. Not written, because it follows from the mask."""
    layer: int
    """The layer that holds the object's pixels."""
    hidden: int = 0
    """Pixels that are in no layer, because more objects overlap there than there are layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageAnnotations:
    """All objects of one image."""

    image_id: int
    file_name: str
    """Name of the image in the raw data set."""
    height: int
    width: int
    objects: tuple[ObjectAnnotation, ...]

    @property
    def classes(self) -> tuple[int, ...]:
        """Classes of the objects, without crowds."""
        return tuple(sorted({found.class_id for found in self.objects if not found.crowd}))

    def to_json(self) -> bytes:
        size = [self.height, self.width]
        document = {
            "image_id": self.image_id,
            "file_name": self.file_name,
            "height": self.height,
            "width": self.width,
            "annotations": [
                {
                    "id": o.id,
                    "category_id": o.class_id,
                    "iscrowd": int(o.crowd),
                    "area": o.area,
                    "bbox": list(o.bbox),
                    "segmentation": {"size": size, "counts": o.rle},
                    "layer": o.layer,
                    "hidden": o.hidden,
                }
                for o in self.objects
            ],
        }
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
        return text.encode(errors="backslashreplace")  # a file name that is not UTF-8 gets JSON's own escapes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mask:
    counts: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    id: int
    category_id: int
    iscrowd: int | bool
    area: float
    bbox: tuple[float, float, float, float]
    segmentation: _Mask
    layer: int
    hidden: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Document:
    image_id: int
    file_name: str
    height: int
    width: int
    annotations: tuple[_Entry, ...]


def parse_annotations(data: bytes) -> ImageAnnotations:
    """Reads what `to_json` wrote. Raises UndecodableError for anything else."""
    try:
        document = _decoded(data)
        rles = [entry.segmentation.counts for entry in document.annotations]
        pixels = _pixels(rles, document.height, document.width)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = f"not annotations as dist-seg packs them ({error})"
        raise UndecodableError(reason, where="json") from error
    return ImageAnnotations(
        image_id=document.image_id,
        file_name=document.file_name,
        height=document.height,
        width=document.width,
        objects=tuple(
            ObjectAnnotation(
                id=entry.id,
                class_id=entry.category_id,
                crowd=bool(entry.iscrowd),
                area=entry.area,
                bbox=entry.bbox,
                rle=entry.segmentation.counts,
                pixels=count,
                layer=entry.layer,
                hidden=entry.hidden,
            )
            for entry, count in zip(document.annotations, pixels, strict=True)
        ),
    )


def _decoded(data: bytes) -> _Document:
    try:
        return msgspec.json.decode(data, type=_Document)
    except msgspec.DecodeError:
        # Python's decoder also reads NaN and the escapes of a file name that is not UTF-8: `to_json` may write both.
        return msgspec.convert(json.loads(data), _Document)


def check_annotations(annotations: ImageAnnotations, height: int, width: int) -> None:
    """Raises UndecodableError for annotations of an image of another size."""
    if (annotations.height, annotations.width) != (height, width):
        raise UndecodableError(
            f"json: annotates an image of {annotations.width}x{annotations.height}, the image has {width}x{height}"
        )


def _pixels(rles: Sequence[str], height: int, width: int) -> list[int]:
    try:
        return [int(area) for area in boxes_and_areas(rles, height, width)[1]]
    except ValueError as error:
        raise UndecodableError(f"json: the mask of an object: {error}") from error
