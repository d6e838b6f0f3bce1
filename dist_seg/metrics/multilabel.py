"""Exact metrics of labels that may overlap: for every label its four counts, summed as integers.

K is the number of labels. Sums of integers do not depend on their order, so the numbers are the same on any number of
ranks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


def label_counts(prediction: torch.Tensor, truth: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """(K, 4) int64: true positives, false positives, false negatives, true negatives of each label.

    prediction: (K, H, W) bool. truth: (K, H, W) integers, 1 where the label is; pixels of `ignore_index` are left out
    of that label's counts. Raises ValueError for shapes that differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
    there, valid = truth == 1, truth != ignore_index
    found = prediction & valid
    hits = (found & there).flatten(1).sum(dim=1)
    predicted, positive, counted = (x.flatten(1).sum(dim=1) for x in (found, there, valid))
    return torch.stack([hits, predicted - hits, positive - hits, counted - predicted - positive + hits], dim=1)


@dataclass(frozen=True, kw_only=True)
class MultiLabelScores:
    """Scores of the counts of K labels. By label, None for one that is absent from truth and prediction."""

    iou: tuple[float | None, ...]
    dice: tuple[float | None, ...]
    class_accuracy: tuple[float | None, ...]
    """Recall; None where the truth lacks the label."""
    precision: tuple[float | None, ...]
    """None where nothing was predicted."""
    miou: float
    mean_dice: float
    """Means over the labels that truth or prediction has."""
    mean_accuracy: float
    """Mean over the labels that the truth has."""
    pixel_accuracy: float
    """Share of the answers, one for every pixel and label, that are right."""
    frequency_weighted_iou: float
    """Mean of the IoUs, weighted with the labels' true pixels."""
    absent: tuple[int, ...]
    """Labels left out of the means, by their places."""


def multilabel_scores(counts: NDArray[np.int64]) -> MultiLabelScores:
    """All scores of (K, 4) counts; NaN for means over nothing."""
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
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else float("nan")
