"""What a report shows of `result.json`, read leniently: a field that is missing or not a number is shown as absent."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Object = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class in the table; None where the score is not defined."""

    name: str
    color: str
    iou: float | None
    dice: float | None
    accuracy: float | None
    truth_pixels: int | None
    share: float
    """Of all truth pixels; of labels that overlap, of the pixels of which the label is known."""
    absent: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the confusion matrix that is not empty. `share` is of the pixels that are `row` in truth."""

    row: int
    column: int
    share: float
    count: int


@dataclass(frozen=True, kw_only=True)
class ScoredImage:
    """One of the images with the lowest or the highest mIoU."""

    kind: Literal["worst", "best"]
    key: str
    miou: float


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A sample without a part in training or score, and why."""

    key: str
    shard: str
    reason: str


def number(result: Object, key: str) -> float | None:
    """A finite number, or None."""
    value = result.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def text(result: Object, key: str) -> str:
    """The value as text; empty where there is none."""
    value = result.get(key)
    return "" if value is None else str(value)


def mapping(result: Object, key: str) -> Object:
    """A nested object; empty where there is none."""
    value = result.get(key)
    return value if isinstance(value, Mapping) else {}


def interval(result: Object, key: str) -> tuple[float, float] | None:
    """A pair of finite numbers, or None."""
    value = result.get(key)
    if not isinstance(value, Sequence) or len(value) != 2:
        return None
    low, high = number({"": value[0]}, ""), number({"": value[1]}, "")
    return None if low is None or high is None else (low, high)


def matrix(result: Object, num_classes: int) -> list[list[int]]:
    """The confusion matrix, rows = truth; empty where it is missing or of another size."""
    rows = result.get("confusion_matrix")
    if not isinstance(rows, Sequence) or len(rows) != num_classes:
        return []
    counts = [[c for c in row if type(c) is int and c >= 0] if isinstance(row, Sequence) else [] for row in rows]
    return counts if all(len(row) == num_classes for row in counts) else []


def cells(counts: Sequence[Sequence[int]]) -> Iterator[Cell]:
    """The cells that are not empty, row by row."""
    for i, row in enumerate(counts):
        total = sum(row)
        for j, count in enumerate(row):
            if count:
                yield Cell(row=i, column=j, share=count / total, count=count)


def class_rows(result: Object, class_names: Sequence[str], colors: Sequence[str]) -> list[ClassRow]:
    """A row for every class, in the order of the ids."""
    truth = _truth_pixels(result, class_names)
    iou, dice, accuracy = (mapping(result, key) for key in ("iou", "dice", "class_accuracy"))
    return [
        ClassRow(
            name=name,
            color=colors[i],
            iou=number(iou, name),
            dice=number(dice, name),
            accuracy=number(accuracy, name),
            truth_pixels=truth[name][0] if name in truth else None,
            share=truth[name][0] / truth[name][1] if name in truth and truth[name][1] else 0.0,
            absent=number(iou, name) is None,
        )
        for i, name in enumerate(class_names)
    ]


def _truth_pixels(result: Object, class_names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Of each class its pixels in the truth, and the pixels that they are a part of; none where that is not told."""
    counts = matrix(result, len(class_names))
    if counts:
        total = sum(map(sum, counts))
        return {name: (sum(row), total) for name, row in zip(class_names, counts, strict=True)}
    found = {}
    for name in class_names:
        match mapping(result, "label_counts").get(name):
            case {
                "true_positives": int(hits),
                "false_negatives": int(missed),
                "false_positives": int(wrong),
                "true_negatives": int(rest),
            }:
                found[name] = (hits + missed, hits + missed + wrong + rest)
    return found


@dataclass(frozen=True, kw_only=True)
class ClassAp:
    """A class's average precision; None where there is no such object."""

    name: str
    mask_ap: float | None
    box_ap: float | None


def ap_rows(result: Object) -> list[ClassAp]:
    """Of instances, a row for every class; empty otherwise."""
    coco = mapping(result, "coco")
    masks, boxes = (mapping(mapping(coco, kind), "class_ap") for kind in ("segm", "bbox"))
    return [ClassAp(name=name, mask_ap=number(masks, name), box_ap=number(boxes, name)) for name in masks]


def extremes(result: Object, most: int) -> list[ScoredImage]:
    """The images with the lowest scores and those with the highest, at most that many of each."""
    per_image = mapping(result, "per_image")
    kinds: tuple[Literal["worst", "best"], ...] = ("worst", "best")
    found: list[ScoredImage] = []
    for kind in kinds:
        entries = per_image.get(kind)
        for entry in entries[:most] if isinstance(entries, list) else []:
            if isinstance(entry, Mapping) and "key" in entry and (miou := number(entry, "miou")) is not None:
                found.append(ScoredImage(kind=kind, key=text(entry, "key"), miou=miou))
    return found


def left_out(result: Object) -> list[LeftOut]:
    """Samples that the score was computed without."""
    items = result.get("left_out")
    if not isinstance(items, Sequence):
        return []
    return [
        LeftOut(key=text(item, "key"), shard=text(item, "shard"), reason=text(item, "reason"))
        for item in items
        if isinstance(item, Mapping)
    ]
