"""Exact semantic metrics from one integer confusion matrix.

C is the number of classes. The rows of every matrix are the truth, the columns the prediction. Sums of integers do not
depend on their order, so the scores are the same on any number of ranks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dist_seg.metrics.bootstrap import percentile_interval, resamples

PixelCounts = NDArray[np.int64] | NDArray[np.float64]


def confusion_matrix(
    prediction: torch.Tensor, truth: torch.Tensor, num_classes: int, ignore_index: int
) -> torch.Tensor:
    """The number of pixels for each pair of truth and prediction: (C, C) int64, on the tensors' device.

    prediction, truth: integer class ids of equal shape, on one device. Pixels whose truth is `ignore_index` are left
    out. Raises ValueError if the shapes differ or if a class id is outside [0, C).
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
    if not truth.numel():
        return torch.zeros(num_classes, num_classes, dtype=torch.int64, device=truth.device)
    small = torch.int32 if num_classes > 180 else torch.int16  # 181 * 181 still fits into 16 bits
    outside = num_classes * num_classes
    ignored = truth == ignore_index
    truth_small = truth.masked_fill(ignored, 0).to(small)
    prediction_small = prediction.to(small)
    ranges = torch.stack([*truth_small.aminmax(), *prediction_small.aminmax()]).tolist()
    if min(ranges) < 0 or max(ranges) >= num_classes:
        raise ValueError(
            f"class ids must lie in [0, {num_classes}) or be {ignore_index} (truth only): truth has "
            f"{ranges[0]}..{ranges[1]}, prediction {ranges[2]}..{ranges[3]}"
        )
    pairs = torch.where(ignored, outside, truth_small * num_classes + prediction_small)
    counts = torch.bincount(pairs.flatten(), minlength=outside + 1)
    return counts[:outside].reshape(num_classes, num_classes)


@dataclass(frozen=True, kw_only=True)
class SegmentationScores:
    """Scores in [0, 1] of a confusion matrix. In tuples, by class id, None stands for a class in neither truth nor
    prediction."""

    pixel_accuracy: float
    mean_accuracy: float
    """Mean of `class_accuracy` over the classes in the truth."""
    miou: float
    """Mean IoU over the classes in truth or prediction."""
    frequency_weighted_iou: float
    """Mean of the IoUs, weighted by the classes' pixels in the truth."""
    mean_dice: float
    iou: tuple[float | None, ...]
    dice: tuple[float | None, ...]
    class_accuracy: tuple[float | None, ...]
    """Recall of each class; None for a class that is not in the truth."""
    absent: tuple[int, ...]
    """Ids of the classes in neither truth nor prediction; the means leave them out."""


def segmentation_scores(matrix: NDArray[np.int64]) -> SegmentationScores:
    """The scores of a (C, C) confusion matrix; means over no class are NaN."""
    counts = matrix.astype(np.int64)
    hits, truth, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    union = truth + predicted - hits
    present, in_truth, total = union > 0, truth > 0, int(truth.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        iou, dice, accuracy = hits / union, 2 * hits / (truth + predicted), hits / truth

    def mean(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> float:
        return float(values[chosen].mean()) if chosen.any() else float("nan")

    def by_class(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> tuple[float | None, ...]:
        return tuple(float(value) if keep else None for value, keep in zip(values, chosen, strict=True))

    return SegmentationScores(
        pixel_accuracy=float(hits.sum() / total) if total else float("nan"),
        mean_accuracy=mean(accuracy, in_truth),
        miou=mean(iou, present),
        frequency_weighted_iou=float((truth[in_truth] * iou[in_truth]).sum() / total) if total else float("nan"),
        mean_dice=mean(dice, present),
        iou=by_class(iou, present),
        dice=by_class(dice, present),
        class_accuracy=by_class(accuracy, in_truth),
        absent=tuple(int(c) for c in np.flatnonzero(~present)),
    )


def intersection_and_union(matrices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels in the intersection and in the union of each class, (N, C) each, from N confusion matrices (N, C, C)."""
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    return hits, matrices.sum(axis=2) + matrices.sum(axis=1) - hits


def mean_iou(intersection: PixelCounts, union: PixelCounts) -> NDArray[np.float64]:
    """The mean IoU over the last axis, the classes; those with an empty union are left out. NaN if none is left."""
    present = union > 0
    iou = np.where(present, intersection / np.maximum(union, 1), 0.0)
    counted = present.sum(axis=-1)
    return np.where(counted > 0, iou.sum(axis=-1) / np.maximum(counted, 1), np.nan)


def miou_interval(
    intersection: NDArray[np.int64], union: NDArray[np.int64], *, num_resamples: int, seed: int
) -> tuple[float, float]:
    """The 95% bootstrap interval of the mIoU over images; see `metrics.bootstrap`.

    intersection, union: (N, C) pixels of N images. (NaN, NaN) without an image, without a scored pixel or without
    resamples.
    """
    # Matrix products are fast for floats; sums of counts below 2^53 stay exact.
    hits, total = intersection.astype(np.float64), union.astype(np.float64)
    draws = resamples(len(intersection), num_resamples, seed=seed)
    return percentile_interval(np.array([mean_iou(times @ hits, times @ total) for times in draws], dtype=np.float64))
