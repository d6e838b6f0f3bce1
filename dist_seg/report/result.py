"""What a report shows of `result.json`. Scores that are not defined are None; fields that are missing are empty."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

Score = float | None
"""None if it is not defined, such as the IoU of a class that does not occur."""
Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class ScoredCheckpoint:
    """The checkpoint that was evaluated."""

    step: int | None = None
    weights: Literal["ema", "raw"] | None = None


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A sample that was left out of training or score, and why."""

    key: str
    shard: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class KeyedScore:
    """The mIoU of one image."""

    key: str
    miou: Score


@dataclass(frozen=True, kw_only=True)
class PerImage:
    """The images with the lowest and the highest mIoU, the most extreme first."""

    worst: tuple[KeyedScore, ...] = ()
    best: tuple[KeyedScore, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """Pixels of one label, for labels that overlap."""

    true_positives: Count
    false_positives: Count
    false_negatives: Count
    true_negatives: Count


@dataclass(frozen=True, kw_only=True)
class CocoNumbers:
    """COCO's numbers for boxes or for masks."""

    ap: Score = None
    ap50: Score = None
    ap75: Score = None
    ap_small: Score = None
    ap_medium: Score = None
    ap_large: Score = None
    ar_max: Score = None
    class_ap: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CocoResult:
    """Instances only."""

    max_detections: int | None = None
    segm: CocoNumbers = field(default_factory=CocoNumbers)
    bbox: CocoNumbers = field(default_factory=CocoNumbers)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What `result.json` holds."""

    split: str | None = None
    manifest_hash: str | None = None
    checkpoint: ScoredCheckpoint = field(default_factory=ScoredCheckpoint)
    images: Count | None = None
    miou: Score = None
    miou_interval: tuple[Score, Score] | None = None
    pixel_accuracy: Score = None
    mean_accuracy: Score = None
    mean_dice: Score = None
    frequency_weighted_iou: Score = None
    iou: Mapping[str, Score] = field(default_factory=dict)
    dice: Mapping[str, Score] = field(default_factory=dict)
    class_accuracy: Mapping[str, Score] = field(default_factory=dict)
    """These three by class name."""
    confusion_matrix: tuple[tuple[Count, ...], ...] = ()
    """Pixels; rows are the true classes."""
    label_counts: Mapping[str, LabelCounts] = field(default_factory=dict)
    """By class name, for labels that overlap."""
    coco: CocoResult | None = None
    """None for other tasks than instances."""
    mask_ap: Score = None
    mask_ap_interval: tuple[Score, Score] | None = None
    left_out: tuple[LeftOut, ...] = ()
    per_image: PerImage = field(default_factory=PerImage)


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class in the table; None if the score is not defined."""

    name: str
    color: str
    iou: float | None
    dice: float | None
    accuracy: float | None
    truth_pixels: int | None
    share: float
    """Share of all truth pixels; for labels that overlap, of the pixels whose label is known."""
    absent: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A non-empty cell of the confusion matrix. `share` is relative to the pixels whose true class is `row`."""

    row: int
    column: int
    share: float
    count: int


@dataclass(frozen=True, kw_only=True)
class ExtremeImage:
    """One of the images with the lowest or the highest mIoU."""

    kind: Literal["worst", "best"]
    key: str
    miou: float


@dataclass(frozen=True, kw_only=True)
class ClassAp:
    """A class's average precision; None if no image holds an object of it."""

    name: str
    mask_ap: float | None
    box_ap: float | None


def finite(value: float | None) -> float | None:
    """A finite number, or None."""
    return None if value is None or not math.isfinite(value) else value


def interval(bounds: tuple[Score, Score] | None) -> tuple[float, float] | None:
    """A pair of finite numbers, or None."""
    low, high = (finite(bound) for bound in bounds or (None, None))
    return None if low is None or high is None else (low, high)


def matrix(result: Result, num_classes: int) -> Sequence[Sequence[int]]:
    """The confusion matrix; empty if it is missing or of another size."""
    counts = result.confusion_matrix
    return counts if all(len(line) == num_classes for line in (counts, *counts)) else ()


def cells(counts: Sequence[Sequence[int]]) -> Iterator[Cell]:
    """The cells that are not empty, row by row."""
    for i, row in enumerate(counts):
        total = sum(row)
        for j, count in enumerate(row):
            if count:
                yield Cell(row=i, column=j, share=count / total, count=count)


def class_rows(result: Result, class_names: Sequence[str], colors: Sequence[str]) -> list[ClassRow]:
    """A row for every class, in the order of the ids."""
    truth = _truth_pixels(result, class_names)
    return [
        ClassRow(
            name=name,
            color=color,
            iou=finite(result.iou.get(name)),
            dice=finite(result.dice.get(name)),
            accuracy=finite(result.class_accuracy.get(name)),
            truth_pixels=truth[name][0] if name in truth else None,
            share=truth[name][0] / truth[name][1] if name in truth and truth[name][1] else 0.0,
            absent=finite(result.iou.get(name)) is None,
        )
        for name, color in zip(class_names, colors, strict=True)
    ]


def _truth_pixels(result: Result, class_names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """By class: its pixels in the truth, and the pixels that they are a share of. Classes without counts are absent."""
    counts = matrix(result, len(class_names))
    if counts:
        total = sum(map(sum, counts))
        return {name: (sum(row), total) for name, row in zip(class_names, counts, strict=True)}
    found = {}
    for name, label in result.label_counts.items():
        truth = label.true_positives + label.false_negatives
        found[name] = (truth, truth + label.false_positives + label.true_negatives)
    return found


def ap_rows(result: Result) -> list[ClassAp]:
    """A row for every class of instances; empty for other tasks."""
    if result.coco is None:
        return []
    masks, boxes = result.coco.segm.class_ap, result.coco.bbox.class_ap
    return [ClassAp(name=name, mask_ap=finite(ap), box_ap=finite(boxes.get(name))) for name, ap in masks.items()]


def extremes(result: Result, most: int) -> list[ExtremeImage]:
    """The images with the lowest scores and those with the highest, at most `most` of each."""
    kinds: tuple[Literal["worst", "best"], ...] = ("worst", "best")
    return [
        ExtremeImage(kind=kind, key=image.key, miou=miou)
        for kind in kinds
        for image in (result.per_image.worst if kind == "worst" else result.per_image.best)[:most]
        if (miou := finite(image.miou)) is not None
    ]
