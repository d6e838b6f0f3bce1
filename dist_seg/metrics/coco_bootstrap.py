"""How far the average precision would differ on other images: a bootstrap over the images of one evaluation.

In arrays B is resamples, I images, N the detections of one class by falling score, M those that found an object.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dist_seg.metrics.coco import Overlaps
from dist_seg.metrics.coco_matching import IOU_THRESHOLDS, ClassMatches, match_images
from dist_seg.metrics.instances import ScoredImage
from dist_seg.runtime.rng import generator

_RECALLS = np.linspace(0, 1, 101)
_CHUNK = 1 << 20
"""Numbers in one array, at most: resamples are taken in chunks, to stay in a few MB."""


def bootstrap_interval(
    images: Sequence[ScoredImage],
    overlaps: Overlaps,
    *,
    max_detections: int,
    num_resamples: int,
    seed: int,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the AP under resampling of the images with replacement (Efron 1979).

    overlaps: as `score_images` found them for these images and `max_detections`. The draws are a function of `seed` and
    the number of images alone. A resample's mean is over the classes that it has objects of. (NaN, NaN) for no object
    or no resamples.

    COCO's AP is the higher the fewer objects a class has, and a resample has fewer different ones: with tens of objects
    a class the interval lies above a middle around the AP (by 0.03 at 0.51 with 100 images of 80 classes), and a narrow
    one may leave the AP out. With hundreds of objects a class there is no such shift to be seen.
    """
    matches = match_images(images, overlaps, max_detections=max_detections)
    if not matches or num_resamples == 0:
        return float("nan"), float("nan")
    random = generator("bootstrap", seed, len(images))
    times_BI = random.multinomial(len(images), np.full(len(images), 1 / len(images)), size=num_resamples)
    resampled_B = average_precision(matches, times_BI)
    if np.isnan(resampled_B).all():
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(resampled_B, [tail, 1 - tail])
    return float(low), float(high)


def average_precision(matches: Sequence[ClassMatches], times_BI: NDArray[np.int64]) -> NDArray[np.float64]:
    """COCO's AP (B,) of resamples that hold image i `times_BI[b, i]` times; NaN for a resample without objects.

    Equal to the evaluation of copied images, whose detections of equal score are ordered as their images are.
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
    """The AP (B,) of one class: the mean over thresholds and recall levels of the best precision from there on.

    Only detections that found an object raise precision and recall, so the curve's corners are theirs.
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
