"""`KEY.json` of an instance sample: its objects in the fields of COCO's annotations, with the exact masks.

Object i of the list has the pixel id i + 1 in the layers of `KEY.inst.png`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.masks.rle import boxes_and_areas

MAX_LAYERS = 3
MAX_OBJECTS = 32767
"""Ids are 16-bit in the PNG, and signed 16-bit on their way through DALI."""
EVERY_CLASS = -1
"""The class of a crowd that stands for every class: an object of a class that is ignored. Never in a shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectAnnotation:
    """One object, as it was annotated."""

    id: int
    """The annotation's id in the raw data set."""
    class_id: int
    """From 0, in the order of the manifest's class names; or `EVERY_CLASS`."""
    crowd: bool
    """A region of many objects, not told apart: neither trained nor scored."""
    area: float
    """In pixels; the annotation's own where it gives one. COCO's scores go by it and by the box, as they are in the raw
    data set; everything else is measured at the mask."""
    bbox: tuple[float, float, float, float]
    """x, y, width, height; the annotation's own where it gives one."""
    rle: str
    """The exact mask: COCO's compressed run lengths for the image's size."""
    pixels: int
    """Of the exact mask; not written, as it follows from that."""
    layer: int
    """The layer that holds the object's pixels."""
    hidden: int = 0
    """Pixels that no layer had room for, because more objects overlap there than there are layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageAnnotations:
    """All objects of one image."""

    image_id: int
    file_name: str
    """As the raw data set names it."""
    height: int
    width: int
    objects: tuple[ObjectAnnotation, ...]

    @property
    def classes(self) -> tuple[int, ...]:
        """Those of the objects, crowds apart."""
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
        return text.encode(errors="backslashreplace")  # of a file name that is not UTF-8: JSON's own escapes


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
        # Python's decoder also reads what `to_json` may write: NaN, and the escapes of a file name that is not UTF-8.
        return msgspec.convert(json.loads(data), _Document)


def check_annotations(annotations: ImageAnnotations, height: int, width: int) -> None:
    """Raises UndecodableError for annotations of an image of another size."""
    if (annotations.height, annotations.width) != (height, width):
        raise UndecodableError(
            f"json: of an image of {annotations.width}x{annotations.height}, the image has {width}x{height}"
        )


def _pixels(rles: Sequence[str], height: int, width: int) -> list[int]:
    try:
        return [int(area) for area in boxes_and_areas(rles, height, width)[1]]
    except ValueError as error:
        raise UndecodableError(f"json: the mask of an object: {error}") from error
