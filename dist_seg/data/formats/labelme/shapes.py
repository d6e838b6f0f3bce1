"""LabelMe's files: what one says of its image, and its shapes drawn as class ids.

Shapes are drawn as LabelMe's own export draws them, with Pillow: a pixel belongs to a shape if it lies inside or on its
outline, where whole coordinates are pixels' centres. A rectangle from (2, 3) to (4, 5) so has nine pixels.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dist_seg.data.raw.images import read_file
from dist_seg.errors import DataError

_TOLERANCE = 1.0
"""Pixels by which a point may lie outside the image: labelling tools round."""
_FAR = 1e9

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Something that was drawn on an image."""

    label: str
    kind: str
    """`polygon`, `rectangle` or `circle`; or another, which `draw_shapes` refuses."""
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class LabelmeFile:
    """A file's contents."""

    height: int
    width: int
    """Of the upright image; 0 where the file does not say, as those of LabelMe 3."""
    shapes: tuple[Shape, ...]
    """Later ones lie on top."""
    image_path: str
    """Relative to the file's folder, with forward slashes."""
    image_data: str | None
    """The image's own bytes in base64, where the file holds them."""


def read_labelme(path: Path) -> LabelmeFile:
    """Raises `DataError` naming the file, and the shape at fault, for what is no file of LabelMe's."""
    try:
        document = json.loads(read_file(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    match document:
        case {"shapes": [*entries], "imagePath": str(image_path), **others}:
            pass
        case _:
            raise DataError(f"{path}: has no list of shapes or no imagePath; is it a file of LabelMe's?")
    image_data = others.get("imageData")
    if not isinstance(image_data, str | None):
        raise DataError(f"{path}: its imageData is a {type(image_data).__name__}, must be text or null")
    return LabelmeFile(
        height=_side(others.get("imageHeight"), "imageHeight", path),
        width=_side(others.get("imageWidth"), "imageWidth", path),
        shapes=tuple(_shape(entry, f"{path}: shape {number}") for number, entry in enumerate(entries, 1)),
        image_path=PureWindowsPath(image_path).as_posix(),
        image_data=image_data,
    )


def embedded_image(data: str, where: str) -> bytes:
    """The image's bytes. Raises `DataError`."""
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise DataError(f"{where}: its imageData is not base64: {error}") from error


def draw_shapes(file: LabelmeFile, classes: Mapping[str, int], unlabelled: int, where: str) -> NDArray[np.uint8]:
    """(H, W) class ids; `unlabelled` where there is no shape. The file must say its size.

    Raises `DataError` naming `where` and the shape, for a label without a class, another kind of shape, and points
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
    match shape.kind:
        case "polygon":
            if len(points) < 3:
                raise DataError(f"{named}: a polygon of {len(points)} corners; it needs three or more")
            draw.polygon(points, fill=class_id, outline=class_id)
        case "rectangle" | "circle" if len(points) != 2:
            raise DataError(f"{named}: a {shape.kind} of {len(points)} points; it needs two")
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
                f"{named}: a shape of type {shape.kind!r} has no area, or none that is read here; polygon, rectangle "
                "and circle are"
            )


def _shape(entry: object, where: str) -> Shape:
    match entry:
        case {"label": str(label), "points": [*points], **others}:
            kind = others.get("shape_type") or "polygon"  # files of LabelMe's first versions have none
            return Shape(label=label, kind=str(kind), points=tuple(_point(point, where) for point in points))
    raise DataError(f"{where}: has no label or no list of points: {str(entry)[:80]}")


def _point(point: object, where: str) -> Point:
    match point:
        case [int() | float() as x, int() | float() as y] if abs(x) < _FAR and abs(y) < _FAR:  # which a NaN is not
            return float(x), float(y)
    raise DataError(f"{where}: a point must be two finite numbers, x and y: {str(point)[:80]}")


def _side(value: object, name: str, path: Path) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f"{path}: its {name} is {value!r}, must be a number of pixels")
    return value
