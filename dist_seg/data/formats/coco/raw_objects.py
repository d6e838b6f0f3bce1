"""One annotation of COCO as an object: its mask checked and converted to run lengths."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from faster_coco_eval.core import mask as coco_masks

from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.errors import DataError
from dist_seg.masks.rle import counts_text
from dist_seg.runtime.documents import convert

_TOLERANCE = 1.0
"""Pixels by which coordinates may lie outside the image, because labelling tools round."""


@dataclass(frozen=True, kw_only=True)
class _RunLengths:
    size: tuple[int, int]
    """Height and width."""
    counts: str | list[int]
    """Compressed text, or the run lengths themselves."""


@dataclass(frozen=True, kw_only=True)
class _Annotation:
    id: int
    category_id: int
    segmentation: list[list[float]] | _RunLengths
    """Polygons (x, y, x, y, ...), or run lengths."""
    iscrowd: bool | int | float = 0
    area: float | None = None
    bbox: tuple[float, float, float, float] | None = None
    """x, y, width, height."""


def raw_object(entry: Mapping[str, object], classes: Mapping[int, int], height: int, width: int) -> RawObject:
    """The object of an annotation. classes: from category id to class id. Raises `DataError` with what is wrong."""
    annotation = convert(entry, _Annotation, "")
    if annotation.category_id not in classes:
        raise DataError(f"category_id {annotation.category_id} is not among the categories")
    if annotation.iscrowd not in (0, 1):
        raise DataError(f"its iscrowd is {annotation.iscrowd}, must be 0 or 1")
    if annotation.area is not None and not 0 <= annotation.area < math.inf:
        raise DataError(f"its area is {annotation.area:g}, must be a number of at least 0")
    if annotation.bbox is not None:
        _check_box(annotation.bbox, height, width)
    rle = _run_lengths(annotation.segmentation, height, width)
    if not coco_masks.area({"size": [height, width], "counts": rle}):
        raise DataError("its mask has no pixel")
    return RawObject(
        id=annotation.id,
        class_id=classes[annotation.category_id],
        crowd=bool(annotation.iscrowd),
        rle=rle,
        area=annotation.area,
        bbox=annotation.bbox,
    )


def _run_lengths(segmentation: list[list[float]] | _RunLengths, height: int, width: int) -> str:
    if isinstance(segmentation, _RunLengths):
        return _compressed(segmentation, height, width)
    if not segmentation:
        raise DataError("its segmentation is empty")
    polygons = [_polygon(numbers, height, width) for numbers in segmentation]
    parts = coco_masks.frPyObjects(polygons, height, width)
    return counts_text(coco_masks.merge(parts)["counts"])


def _compressed(runs: _RunLengths, height: int, width: int) -> str:
    """Run lengths as compressed text."""
    counts, size = runs.counts, [height, width]
    if runs.size != (height, width):
        rows, columns = runs.size
        raise DataError(f"its mask is for an image of {columns}x{rows} (width x height), not {width}x{height}")
    total = _sum_of_runs(counts) if isinstance(counts, str) else sum(counts)
    if total != height * width or (isinstance(counts, list) and min(counts) < 0):
        raise DataError(f"its run lengths do not add up to the {height * width} pixels of the image")
    if isinstance(counts, str):
        return counts
    return counts_text(coco_masks.frPyObjects({"size": size, "counts": counts}, height, width)["counts"])


def _sum_of_runs(counts: str) -> int:
    """Pixels that a string of COCO's run lengths covers; -1 for one that is none.

    Five bits a character, least significant first, a sixth for more to come; from the third run on the difference to
    the run before the last (the format of COCO's maskApi).
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return -1
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            return -1
        runs.append(value)
        value = shift = 0
    return sum(runs) if shift == 0 else -1


def _polygon(numbers: list[float], height: int, width: int) -> list[float]:
    """The polygon, with corners just outside the image moved to its border."""
    if len(numbers) < 6 or len(numbers) % 2:
        raise DataError(f"a polygon of {len(numbers)} numbers; it needs at least three corners, x and y each")
    limits = [width, height] * (len(numbers) // 2)
    for number, (value, limit) in enumerate(zip(numbers, limits, strict=True)):
        if not -_TOLERANCE <= value <= limit + _TOLERANCE:
            raise DataError(f"a corner at {'xy'[number % 2]}={value:g} lies outside the image of {width}x{height}")
    return [min(max(value, 0.0), float(limit)) for value, limit in zip(numbers, limits, strict=True)]


def _check_box(box: tuple[float, float, float, float], height: int, width: int) -> None:
    x, y, box_width, box_height = box
    shown = f"its box [{', '.join(f'{value:g}' for value in box)}]"
    # A NaN fails every comparison, so each of these says what must hold.
    if not (x >= -_TOLERANCE and y >= -_TOLERANCE and math.isfinite(box_width + box_height)):
        raise DataError(f"{shown} lies outside the image of {width}x{height}")
    if not (box_width > 0 and box_height > 0):
        raise DataError(f"{shown} has no area")
    if not (x + box_width <= width + _TOLERANCE and y + box_height <= height + _TOLERANCE):
        raise DataError(f"{shown} lies outside the image of {width}x{height}")
