"""`KEY.json` of an instance sample: its objects in the fields of COCO's annotations, with the exact masks.

Object i of the list has the pixel id i + 1 in the layers of `KEY.inst.png`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

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


def parse_annotations(data: bytes) -> ImageAnnotations:
    """Reads what `to_json` wrote. Raises UndecodableError for anything else."""
    try:
        document = cast(Mapping[str, object], json.loads(data))
        height, width = _int(document["height"]), _int(document["width"])
        entries = cast(Sequence[Mapping[str, object]], document["annotations"])
        rles = [str(cast(Mapping[str, object], entry["segmentation"])["counts"]) for entry in entries]
        pixels = _pixels(rles, height, width)
        return ImageAnnotations(
            image_id=_int(document["image_id"]),
            file_name=str(document["file_name"]),
            height=height,
            width=width,
            objects=tuple(_object(*fields) for fields in zip(entries, rles, pixels, strict=True)),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UndecodableError(
            f"json: not annotations as dist-seg packs them ({type(error).__name__}: {error})"
        ) from error


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


def _object(entry: Mapping[str, object], rle: str, pixels: int) -> ObjectAnnotation:
    x, y, width, height = (float(number) for number in cast(Sequence[float], entry["bbox"]))
    return ObjectAnnotation(
        id=_int(entry["id"]),
        class_id=_int(entry["category_id"]),
        crowd=bool(entry["iscrowd"]),
        area=float(cast(float, entry["area"])),
        bbox=(x, y, width, height),
        rle=rle,
        pixels=pixels,
        layer=_int(entry["layer"]),
        hidden=_int(entry["hidden"]),
    )


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not an integer")
    return value
