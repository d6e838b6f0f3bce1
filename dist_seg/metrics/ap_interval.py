"""A bootstrap interval for COCO's average precision (AP): how far it would differ on other images.

The evaluator does not say which detections it matched with which objects. This module repeats the matching image by
image, and computes the AP of every resample from the matches.

Letters after the names of arrays: B resamples, T IoU thresholds, I images in the order of their keys, N detections of
one class in all images by falling score, M those of them that found an object; D detections and G objects of one class
in one image.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dist_seg.metrics.bootstrap import percentile_interval, resamples
from dist_seg.metrics.coco import Overlaps
from dist_seg.metrics.instances import ImageInstances

Value = TypeVar("Value")

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_CHUNK = 1 << 20
"""Most numbers in one array: resamples are taken in chunks, to stay within a few MB."""


@dataclass(frozen=True, kw_only=True)
class ClassMatches:
    """The detections of one class that has objects other than crowds."""

    images: NDArray[np.int64]
    """(N,) index in I of each detection's image."""
    hits: NDArray[np.bool_]
    """(T, N) whether the detection found an object that is not a crowd."""
    counted: NDArray[np.bool_]
    """(T, N) whether the detection counts as right or wrong; inside a crowd it is neither."""
    objects: NDArray[np.int64]
    """(I,) number of objects to find in each image."""


def ap_interval(
    images: Sequence[ImageInstances], overlaps: Overlaps, *, max_detections: int, num_resamples: int, seed: int
) -> tuple[float, float]:
    """The 95% bootstrap interval of the AP over images; see `metrics.bootstrap`.

    overlaps: what `score_images` returned for these images and `max_detections`. The mean of a resample is over the
    classes that it has objects of. (NaN, NaN) without an object or without resamples.

    COCO's AP rises as a class has fewer objects, and a resample has fewer distinct ones. With tens of objects a class
    the interval is therefore centred above the AP (by 0.03 at an AP of 0.51, with 100 images of 80 classes), and a
    narrow interval may exclude the AP. With hundreds of objects a class no such shift is visible.
    """
    matches = match_images(images, overlaps, max_detections=max_detections)
    if not matches:
        return float("nan"), float("nan")
    times_BI = np.empty((num_resamples, len(images)), dtype=np.int64)
    for b, times_I in enumerate(resamples(len(images), num_resamples, seed=seed)):
        times_BI[b] = times_I
    return percentile_interval(average_precision(matches, times_BI))


def average_precision(matches: Sequence[ClassMatches], times_BI: NDArray[np.int64]) -> NDArray[np.float64]:
    """COCO's AP (B,) of the resamples that hold image i `times_BI[b, i]` times; NaN for a resample without objects.

    It equals an evaluation of copied images in which detections of equal score keep the order of their images.
    """
    sums_B = np.zeros(len(times_BI))
    present_B = np.zeros(len(times_BI), dtype=np.int64)
    for match in matches:
        rows = max(1, _CHUNK // max(1, len(match.images)))
        for begin in range(0, len(times_BI), rows):
            part = slice(begin, begin + rows)
            times = times_BI[part].astype(np.float64)
            present = times @ match.objects > 0
            sums_B[part] += np.where(present, _class_precision(match, times), 0.0)
            present_B[part] += present
    return np.where(present_B > 0, sums_B / np.maximum(present_B, 1), np.nan)


def _class_precision(match: ClassMatches, times_BI: NDArray[np.float64]) -> NDArray[np.float64]:
    """The AP (B,) of one class: mean over thresholds and recall levels of the best precision at that recall or above.

    Only detections that found an object raise the precision and the recall, so the curve has its corners there.
    """
    objects_B1 = np.maximum(times_BI @ match.objects, 1)[:, None]
    times_BN = times_BI[:, match.images]
    sums_B = np.zeros(len(times_BI))
    counted_N: NDArray[np.bool_] | None = None
    for t in range(len(IOU_THRESHOLDS)):
        if counted_N is None or not np.array_equal(counted_N, match.counted[t]):
            counted_N = match.counted[t]
            seen_BN = np.cumsum(times_BN * counted_N, axis=1)
        at_M = np.flatnonzero(match.hits[t])
        found_BM = np.cumsum(times_BN[:, at_M], axis=1)
        precision_BM = found_BM / (seen_BN[:, at_M] + np.spacing(1))
        best_BM = np.maximum.accumulate(precision_BM[:, ::-1], axis=1)[:, ::-1]
        levels_BM = np.searchsorted(_RECALLS, found_BM / objects_B1, side="right")
        sums_B += (best_BM * np.diff(levels_BM, axis=1, prepend=0)).sum(axis=1)
    return sums_B / (len(IOU_THRESHOLDS) * len(_RECALLS))


def match_images(images: Sequence[ImageInstances], overlaps: Overlaps, *, max_detections: int) -> list[ClassMatches]:
    """The matches of every class that has objects, in the order of class ids.

    overlaps: those of these images, with at least `max_detections` detections per image and class.
    """
    ordered = sorted(images, key=lambda image: image.key)
    keys = [image.key for image in ordered]
    crowds = [_by_class((instance.class_id, instance.crowd) for instance in image.truth_by_class) for image in ordered]
    scores = [_by_class((instance.class_id, instance.score) for instance in image.predictions) for image in ordered]
    classes = {class_id for found in crowds for class_id, flags in found.items() if not all(flags)}
    matches = []
    for class_id in sorted(classes):
        crowd_IG = [np.array(found.get(class_id, ()), dtype=np.bool_) for found in crowds]
        score_ID = [-np.sort(-np.array(found.get(class_id, ())))[:max_detections] for found in scores]
        overlap_IDG = [
            overlaps.get((key, class_id), np.zeros((len(score_D), 0)))[:max_detections]
            for key, score_D in zip(keys, score_ID, strict=True)
        ]
        matches.append(_match_class(score_ID, overlap_IDG, crowd_IG))
    return matches


def _by_class(pairs: Iterable[tuple[int, Value]]) -> dict[int, list[Value]]:
    found: dict[int, list[Value]] = {}
    for class_id, value in pairs:
        found.setdefault(class_id, []).append(value)
    return found


def _match_class(
    score_ID: list[NDArray[np.float64]], overlap_IDG: list[NDArray[np.float64]], crowd_IG: list[NDArray[np.bool_]]
) -> ClassMatches:
    matched, ignored = [], []
    for overlap_DG, crowd_G in zip(overlap_IDG, crowd_IG, strict=True):
        matched_TD, ignored_TD = match_detections(overlap_DG, crowd_G)
        matched.append(matched_TD)
        ignored.append(ignored_TD)
    by_score = np.argsort(-np.concatenate(score_ID), kind="stable")
    counted_TN = ~np.concatenate(ignored, axis=1)[:, by_score]
    return ClassMatches(
        images=np.repeat(np.arange(len(score_ID)), [len(score_D) for score_D in score_ID])[by_score],
        hits=np.concatenate(matched, axis=1)[:, by_score] & counted_TN,
        counted=counted_TN,
        objects=np.array([np.count_nonzero(~crowd_G) for crowd_G in crowd_IG]),
    )


def match_detections(
    overlap_DG: NDArray[np.float64], crowd_G: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """COCO's greedy matching in one image: which detections are matched, and which of them with a crowd; (T, D) each.

    overlap_DG: detections by falling score; (D, 0) without objects. A detection is matched with the free object that it
    overlaps most (the last of equals). If no object is left it is matched with a crowd, which stays free.
    """
    matched_TD, ignored_TD = _none(len(overlap_DG)), _none(len(overlap_DG))
    if not overlap_DG.size:
        return matched_TD, ignored_TD
    least_T = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    free_TG = np.ones((len(least_T), len(crowd_G)), dtype=np.bool_)
    for d in np.flatnonzero(overlap_DG.max(axis=1) >= least_T[0]):
        fits_TG = free_TG & (overlap_DG[d] >= least_T[:, None])
        objects_TG = fits_TG & ~crowd_G
        candidates_TG = np.where(objects_TG.any(axis=1, keepdims=True), objects_TG, fits_TG)
        overlap_TG = np.where(candidates_TG, overlap_DG[d], -1.0)
        best_T = len(crowd_G) - 1 - overlap_TG[:, ::-1].argmax(axis=1)
        found = np.flatnonzero(candidates_TG.any(axis=1))
        matched_TD[found, d] = True
        ignored_TD[found, d] = crowd_G[best_T[found]]
        free_TG[found, best_T[found]] = crowd_G[best_T[found]]
    return matched_TD, ignored_TD


def _none(num_detections: int) -> NDArray[np.bool_]:
    return np.zeros((len(IOU_THRESHOLDS), num_detections), dtype=np.bool_)
