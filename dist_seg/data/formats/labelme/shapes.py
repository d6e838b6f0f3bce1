"""LabelMe's files: reading one, and drawing its shapes as class ids.

Shapes are drawn with Pillow, like LabelMe's own export: a pixel belongs to a shape if its centre lies inside the
outline or on it, and whole coordinates are the centres of pixels. So a rectangle from (2, 3) to (4, 5) has nine pixels.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dist_seg.data.raw.images import read_file
from dist_seg.errors import DataError
from dist_seg.runtime.documents import convert

_TOLERANCE = 1.0
"""Pixels by which a point may lie outside the image, because labelling tools round."""
_FAR = 1e9

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A shape drawn on an image."""

    label: str
    shape_type: str
    """`polygon`, `rectangle` or `circle`. `draw_shapes` refuses any other."""
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class LabelmeFile:
    """The contents of a file."""

    height: int
    width: int
    """Size of the upright image; 0 if the file does not have it, as in LabelMe 3."""
    shapes: tuple[Shape, ...]
    """Later shapes cover earlier ones."""
    image_path: str
    """Relative to the file's folder, with forward slashes."""
    image_data: str | None
    """The bytes of the image in base64; None if it is a file of its own."""


_Side = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, kw_only=True)
class _Document:
    """The fields of a file that are read, under LabelMe's names."""

    shapes: list[object]
    imagePath: str  # noqa: N815
    imageData: str | None = None  # noqa: N815
    imageHeight: _Side | None = None  # noqa: N815
    imageWidth: _Side | None = None  # noqa: N815


@dataclass(frozen=True, kw_only=True)
class _ShapeEntry:
    label: str
    points: list[Point]
    shape_type: str | None = None


def read_labelme(path: Path) -> LabelmeFile:
    """Read a file. Raises `DataError` naming the file and the shape at fault if it is not LabelMe's."""
    try:
        document = json.loads(read_file(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", where=path) from error
    if not isinstance(document, dict) or not document.keys() >= {"shapes", "imagePath"}:
        raise DataError("has no list of shapes or no imagePath; is it a LabelMe file?", where=path)
    contents = convert(document, _Document, str(path))
    return LabelmeFile(
        height=contents.imageHeight or 0,
        width=contents.imageWidth or 0,
        shapes=tuple(_shape(entry, f"{path}: shape {number}") for number, entry in enumerate(contents.shapes, 1)),
        image_path=PureWindowsPath(contents.imagePath).as_posix(),
        image_data=contents.imageData,
    )


def embedded_image(data: str, where: str) -> bytes:
    """The bytes of the image. Raises `DataError` if they are not base64."""
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise DataError(f"{where}: its imageData is not base64: {error}") from error


def draw_shapes(file: LabelmeFile, classes: Mapping[str, int], unlabelled: int, where: str) -> NDArray[np.uint8]:
    """(H, W) class ids, `unlabelled` where no shape is. The file must have its size.

    Raises `DataError` naming `where` and the shape, for a label without a class, an unknown type of shape, and points
    outside the image.
    """
    picture = Image.new("L", (file.width, file.height), unlabelled)
    draw = ImageDraw.Draw(picture)
    for number, shape in enumerate(file.shapes, 1):
        named = f"{where}: shape {number} ({shape.label!r})"
        if shape.label not in classes:
            raise DataError(f"{named}: its label is not among the classes ({', '.join(classes)})")
        _check_corners(shape, file, named)
        _draw(draw, shape, classes[shape.label], named)
    return np.asarray(picture)


def _check_corners(shape: Shape, file: LabelmeFile, named: str) -> None:
    for x, y in shape.points:
        if not (-_TOLERANCE <= x <= file.width + _TOLERANCE and -_TOLERANCE <= y <= file.height + _TOLERANCE):
            raise DataError(f"{named}: its point ({x:g}, {y:g}) lies outside the image of {file.width}x{file.height}")


def _draw(draw: ImageDraw.ImageDraw, shape: Shape, class_id: int, named: str) -> None:
    points = shape.points
    match shape.shape_type:
        case "polygon":
            if len(points) < 3:
                raise DataError(f"{named}: a polygon of {len(points)} corners; it needs at least three")
            draw.polygon(points, fill=class_id, outline=class_id)
        case "rectangle" | "circle" if len(points) != 2:
            raise DataError(f"{named}: a {shape.shape_type} of {len(points)} points; it needs two")
        case "rectangle":
            (x, y), (other_x, other_y) = points
            box = (min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y))
            draw.rectangle(box, fill=class_id, outline=class_id)
        case "circle":
            (x, y), edge = points
            radius = math.dist((x, y), edge)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=class_id, outline=class_id)
        case _:
            raise DataError(
                f"{named}: shapes of type {shape.shape_type!r} have no area or cannot be read; use polygons, "
                "rectangles or circles"
            )


def _shape(entry: object, where: str) -> Shape:
    shape = convert(entry, _ShapeEntry, where)
    for x, y in shape.points:
        if not (abs(x) < _FAR and abs(y) < _FAR):  # a NaN is not
            raise DataError(f"its point ({x:g}, {y:g}) must be two finite numbers", where=where)
    # Files of LabelMe's first versions have no type.
    return Shape(label=shape.label, shape_type=shape.shape_type or "polygon", points=tuple(shape.points))
