"""Bootstrap intervals: how far a score would differ on other images (Efron 1979).

The images of one evaluation are drawn again and again with replacement, and the score is computed for each draw.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dist_seg.runtime.rng import generator

_CONFIDENCE = 0.95


def resamples(num_images: int, num_resamples: int, *, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each resample holds each image: `num_resamples` arrays (num_images,) that sum to `num_images`.

    The draws depend on `seed` and `num_images` alone. No images give no resamples.
    """
    if not num_images:
        return
    random, shares = generator("bootstrap", seed, num_images), np.full(num_images, 1 / num_images)
    for _ in range(num_resamples):
        yield random.multinomial(num_images, shares)


def percentile_interval(scores: NDArray[np.float64]) -> tuple[float, float]:
    """The 95% percentile interval of the resamples' scores (B,), without those that are NaN; (NaN, NaN) if all are."""
    if np.isnan(scores).all():
        return float("nan"), float("nan")
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.nanquantile(scores, [tail, 1 - tail])
    return float(low), float(high)
