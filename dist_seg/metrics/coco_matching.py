"""Which detections COCO's evaluation takes for which objects, image by image: what its average precision is made of.

The evaluator keeps this to itself; the bootstrap needs it by image. In arrays T is the IoU thresholds, I the images, N
the detections of one class in all images by falling score; D detections and G objects of one class in one image.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dist_seg.metrics.coco import Overlaps
from dist_seg.metrics.instances import ScoredImage

Value = TypeVar("Value")

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True, kw_only=True)
class ClassMatches:
    """The detections of one class that has objects other than crowds."""

    images: NDArray[np.int64]
    """(N,) where each detection's image stands in the order of keys."""
    hits: NDArray[np.bool_]
    """(T, N) it found an object that counts."""
    counted: NDArray[np.bool_]
    """(T, N) it is right or wrong; what lies in a crowd is neither."""
    objects: NDArray[np.int64]
    """(I,) objects to be found in each image."""


def match_images(images: Sequence[ScoredImage], overlaps: Overlaps, *, max_detections: int) -> list[ClassMatches]:
    """The matches of every class that has objects, by class id.

    overlaps: of these images, for at least `max_detections` detections each.
    """
    ordered = sorted(images, key=lambda image: image.key)
    keys = [image.key for image in ordered]
    crowds = [_by_class((thing.class_id, thing.crowd) for thing in image.truth_by_class) for image in ordered]
    scores = [_by_class((thing.class_id, thing.score) for thing in image.predictions) for image in ordered]
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
    """COCO's greedy matching in one image: which detections are matched, and which of these to a crowd; (T, D) each.

    overlap_DG: detections by falling score; no objects (D, 0) where either is missing. A detection takes the free
    object that it overlaps most (of equals the last), only else a crowd, which stays free.
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
