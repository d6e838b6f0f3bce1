"""One annotation of COCO as an object: its mask checked and brought into run lengths."""

import math
from collections.abc import Mapping, Sequence

from faster_coco_eval.core import mask as coco_masks

from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.formats.coco.index import Entry
from dist_seg.errors import DataError
from dist_seg.masks.rle import counts_text

_TOLERANCE = 1.0
"""Pixels by which coordinates may lie outside the image: labelling tools round."""


def raw_object(entry: Entry, classes: Mapping[int, int], height: int, width: int) -> RawObject:
    """The object of an annotation. classes: from category id to class id. Raises `DataError` with what is wrong."""
    number, category, crowd = entry.get("id"), entry.get("category_id"), entry.get("iscrowd", 0)
    if isinstance(number, bool) or not isinstance(number, int):
        raise DataError(f"has no integer id: {str(entry)[:80]}")
    if not isinstance(category, int) or category not in classes:
        raise DataError(f"category_id {category!r} is not among the categories")
    if crowd not in (0, 1):
        raise DataError(f"its iscrowd is {crowd!r}, must be 0 or 1")
    rle = _run_lengths(entry.get("segmentation"), height, width)
    pixels = int(coco_masks.area({"size": [height, width], "counts": rle}))
    if not pixels:
        raise DataError("its mask has no pixel")
    return RawObject(
        id=number,
        class_id=classes[category],
        crowd=bool(crowd),
        rle=rle,
        area=_number(entry, "area"),
        bbox=_box(entry.get("bbox"), height, width),
    )


def _run_lengths(segmentation: object, height: int, width: int) -> str:
    match segmentation:
        case {"size": [int(rows), int(columns)], "counts": counts}:
            if (rows, columns) != (height, width):
                raise DataError(f"its mask is of an image of {columns}x{rows} (width x height), not {width}x{height}")
            return _compressed(counts, height, width)
        case [_, *_]:
            polygons = [_polygon(part, height, width) for part in segmentation]
            parts = coco_masks.frPyObjects(polygons, height, width)
            return counts_text(coco_masks.merge(parts)["counts"])
        case []:
            raise DataError("its segmentation is empty")
    raise DataError(f"its segmentation is neither polygons nor run lengths: {str(segmentation)[:60]}")


def _compressed(counts: object, height: int, width: int) -> str:
    """Run lengths as a string, whichever way they were given."""
    size = [height, width]
    if isinstance(counts, list):
        if not all(isinstance(run, int) and run >= 0 for run in counts) or sum(counts) != height * width:
            raise DataError(f"its run lengths do not add up to the {height * width} pixels of the image")
        return counts_text(coco_masks.frPyObjects({"size": size, "counts": counts}, height, width)["counts"])
    if not isinstance(counts, str):
        raise DataError(f"its run lengths are a {type(counts).__name__}, not a string or a list")
    if _sum_of_runs(counts) != height * width:
        raise DataError(f"its run lengths do not add up to the {height * width} pixels of the image")
    return counts


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


def _polygon(part: object, height: int, width: int) -> list[float]:
    if not isinstance(part, Sequence) or isinstance(part, str) or not all(isinstance(v, int | float) for v in part):
        raise DataError(f"a polygon must be a list of numbers: {str(part)[:60]}")
    numbers = [float(value) for value in part]
    if len(numbers) < 6 or len(numbers) % 2:
        raise DataError(f"a polygon of {len(numbers)} numbers; it needs three corners or more, x and y each")
    for value, limit, axis in zip(
        numbers, [width, height] * (len(numbers) // 2), "xy" * (len(numbers) // 2), strict=True
    ):
        if not -_TOLERANCE <= value <= limit + _TOLERANCE:
            raise DataError(f"a corner at {axis}={value:g} lies outside the image of {width}x{height}")
    return [
        min(max(value, 0.0), float(limit))
        for value, limit in zip(numbers, [width, height] * (len(numbers) // 2), strict=True)
    ]


def _box(bbox: object, height: int, width: int) -> tuple[float, float, float, float] | None:
    if bbox is None:
        return None
    match bbox:
        case [int() | float() as x, int() | float() as y, int() | float() as w, int() | float() as h]:
            if not (w > 0 and h > 0):
                raise DataError(f"its box {bbox} has no area")
            # Written so that a NaN is outside.
            inside = x >= -_TOLERANCE and y >= -_TOLERANCE
            if not (inside and x + w <= width + _TOLERANCE and y + h <= height + _TOLERANCE):
                raise DataError(f"its box {bbox} lies outside the image of {width}x{height}")
            return float(x), float(y), float(w), float(h)
    raise DataError(f"its box must be x, y, width, height: {str(bbox)[:60]}")


def _number(entry: Entry, key: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise DataError(f"its {key} is {value!r}, must be a number of at least 0")
    return float(value)
