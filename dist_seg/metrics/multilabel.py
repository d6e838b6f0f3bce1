"""Exact metrics of labels that may overlap, from four integer counts per label.

K is the number of labels. Sums of integers do not depend on their order, so the scores are the same on any number of
ranks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


def label_counts(prediction: torch.Tensor, truth: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """(K, 4) int64: true positives, false positives, false negatives and true negatives of each label, in pixels.

    prediction: (K, H, W) bool. truth: (K, H, W) integers, 1 where the label is present; where it holds `ignore_index`
    the pixel is left out of that label's counts. Raises ValueError if the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
    present, valid = truth == 1, truth != ignore_index
    found = prediction & valid
    hits = (found & present).flatten(1).sum(dim=1)
    predicted, positive, counted = (x.flatten(1).sum(dim=1) for x in (found, present, valid))
    return torch.stack([hits, predicted - hits, positive - hits, counted - predicted - positive + hits], dim=1)


@dataclass(frozen=True, kw_only=True)
class MultiLabelScores:
    """Scores in [0, 1] of K labels. In tuples, by label, None stands for a label in neither truth nor prediction."""

    iou: tuple[float | None, ...]
    dice: tuple[float | None, ...]
    class_accuracy: tuple[float | None, ...]
    """Recall of each label; None for a label that is not in the truth."""
    precision: tuple[float | None, ...]
    """None for a label that was not predicted."""
    miou: float
    mean_dice: float
    """Means over the labels in truth or prediction."""
    mean_accuracy: float
    """Mean of `class_accuracy` over the labels in the truth."""
    pixel_accuracy: float
    """Share of the pairs of pixel and label that are predicted right."""
    frequency_weighted_iou: float
    """Mean of the IoUs, weighted by the labels' pixels in the truth."""
    absent: tuple[int, ...]
    """Indices of the labels in neither truth nor prediction; the means leave them out."""


def multilabel_scores(counts: NDArray[np.int64]) -> MultiLabelScores:
    """The scores of counts (K, 4), see `label_counts`; means over no label are NaN."""
    hits, false_positives, false_negatives, rest = (counts[:, i].astype(np.int64) for i in range(4))
    truth, predicted = hits + false_negatives, hits + false_positives
    union = truth + false_positives

    def ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> tuple[float | None, ...]:
        return tuple(int(p) / int(w) if w else None for p, w in zip(part, whole, strict=True))

    iou, dice, recall = ratio(hits, union), ratio(2 * hits, truth + predicted), ratio(hits, truth)
    weighted = sum(int(t) * value for t, value in zip(truth, iou, strict=True) if value is not None)
    return MultiLabelScores(
        iou=iou,
        dice=dice,
        class_accuracy=recall,
        precision=ratio(hits, predicted),
        miou=_mean(iou),
        mean_dice=_mean(dice),
        mean_accuracy=_mean(recall),
        pixel_accuracy=int((hits + rest).sum()) / int(counts.sum()) if counts.sum() else float("nan"),
        frequency_weighted_iou=weighted / int(truth.sum()) if truth.sum() else float("nan"),
        absent=tuple(int(label) for label in np.flatnonzero(union == 0)),
    )


def _mean(values: tuple[float | None, ...]) -> float:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else float("nan")
