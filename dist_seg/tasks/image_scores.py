"""What a metric remembers of every image beside its sums: the mean's interval, the best and the worst come of it."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dist_seg.data.batch import BadSample
from dist_seg.metrics.confusion import bootstrap_interval, mean_iou
from dist_seg.runtime.collectives import gather_json, gather_rows

_NUM_EXTREMES = 6


class ImageScores:
    """The intersections and unions of a rank's images, by class, and what was left out."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._rows: list[torch.Tensor] = []
        self._keys: list[str] = []
        self._left_out: list[dict[str, str]] = []

    def add(self, key: str, hits: NDArray[np.int64], union: NDArray[np.int64]) -> None:
        """hits, union: (C,)."""
        self._rows.append(torch.from_numpy(np.concatenate([hits, union])))
        self._keys.append(key)

    def leave_out(self, bad: Sequence[BadSample]) -> None:
        """Has samples that could not be scored named in the result."""
        self._left_out.extend(dataclasses.asdict(sample) for sample in bad)

    def gather(self) -> "GatheredScores":
        """Of all ranks. A collective."""
        empty = torch.zeros(0, 2 * self._num_classes, dtype=torch.int64)
        rows = gather_rows(torch.stack(self._rows) if self._rows else empty).numpy()
        gathered = gather_json([self._keys, self._left_out])
        return GatheredScores(
            keys=tuple(key for part in gathered for key in part[0]),  # type: ignore[index]  # as sent above
            hits=rows[:, : self._num_classes],
            union=rows[:, self._num_classes :],
            left_out=tuple(sample for part in gathered for sample in part[1]),  # type: ignore[index]
        )


@dataclass(frozen=True, kw_only=True)
class GatheredScores:
    """The images of all ranks, in the order of the split."""

    keys: tuple[str, ...]
    hits: NDArray[np.int64]
    union: NDArray[np.int64]
    """(N, C) each."""
    left_out: tuple[dict[str, str], ...]

    def interval(self, *, num_resamples: int, seed: int) -> tuple[float, float]:
        """Of the mIoU, see `bootstrap_interval`."""
        return bootstrap_interval(self.hits, self.union, num_resamples=num_resamples, seed=seed)

    def extremes(self) -> dict[str, list[dict[str, object]]]:
        """The images with the lowest and the highest mIoU."""
        of_images = zip(mean_iou(self.hits, self.union), self.keys, strict=True)
        ranked = sorted((float(score), key) for score, key in of_images if not math.isnan(score))
        return {
            "worst": [{"key": key, "miou": score} for score, key in ranked[:_NUM_EXTREMES]],
            "best": [{"key": key, "miou": score} for score, key in ranked[::-1][:_NUM_EXTREMES]],
        }
