"""What a metric remembers of every image beside its sums: the mean's interval, the best and the worst come of it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dist_seg.data.codecs.encoded import BadSample
from dist_seg.distributed.collectives import gather_json, gather_rows
from dist_seg.metrics.confusion import SegmentationScores, bootstrap_interval, mean_iou
from dist_seg.metrics.multilabel import MultiLabelScores
from dist_seg.tasks.task import EvalResult

_NUM_EXTREMES = 6
_HEADLINE = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "mean_dice")


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


def scored_result(
    scores: SegmentationScores | MultiLabelScores,
    class_names: Sequence[str],
    images: GatheredScores,
    *,
    interval: tuple[float, float],
    own: Mapping[str, float],
    by_class_fields: Sequence[str],
    counts: Mapping[str, object],
) -> EvalResult:
    """What an evaluation by pixels amounts to. own: numbers of the user's metrics. counts: what the scores are made of,
    for the document."""
    by_class = {field: dict(zip(class_names, getattr(scores, field), strict=True)) for field in by_class_fields}
    headline = {field: getattr(scores, field) for field in _HEADLINE} | dict(own)
    document = {
        **{name: finite(value) for name, value in headline.items()},
        "miou_interval": [finite(bound) for bound in interval],
        "class_names": list(class_names),
        **by_class,
        "absent_classes": [class_names[class_id] for class_id in scores.absent],
        **counts,
        "images": len(images.keys),
        "left_out": list(images.left_out),
        "per_image": images.extremes(),
    }
    by_name = {f"iou/{name}": iou for name, iou in by_class["iou"].items() if iou is not None}
    return EvalResult(headline={**headline, **by_name}, score_name="miou", document=document, images=len(images.keys))


def finite(value: float) -> float | None:
    """None, as JSON knows it, for what is not a number."""
    return value if math.isfinite(value) else None
