"""What the metrics of pixels keep of every image: for the interval of the mIoU, the best and worst images, the user's
own metrics, and the names of samples that could not be scored.

C is the number of classes, N that of scored images on all ranks.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dist_seg.config.schema import Config
from dist_seg.data.codecs.encoded import BadSample
from dist_seg.distributed.collectives import gather_json, gather_rows
from dist_seg.metrics.confusion import SegmentationScores, mean_iou, miou_interval
from dist_seg.metrics.custom import MetricSums, build_metrics
from dist_seg.metrics.multilabel import MultiLabelScores
from dist_seg.runtime.documents import convert
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.task import EvalResult

_NUM_EXTREMES = 6
_HEADLINE = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "mean_dice")


class ImageScores:
    """The images that one rank has scored."""

    def __init__(self, config: Config, classes: ClassInfo) -> None:
        """Raises ConfigError for an entry of `eval.metrics` that cannot be used."""
        self._class_names = classes.names
        self._num_resamples, self._seed = config.eval.bootstrap_samples, config.train.seed
        self._own = MetricSums(build_metrics(config.eval.metrics, classes.names, classes.ignore_index))
        self._rows: list[torch.Tensor] = []
        self._keys: list[str] = []
        self._left_out: list[BadSample] = []

    def add(self, key: str, intersection: NDArray[np.int64], union: NDArray[np.int64]) -> None:
        """intersection, union: (C,) pixels of one image."""
        self._rows.append(torch.from_numpy(np.concatenate([intersection, union])))
        self._keys.append(key)

    def add_to_own(self, prediction: torch.Tensor, truth: torch.Tensor) -> None:
        """Passes one image to the user's metrics; shapes as in `AdditiveMetric.of_image`."""
        self._own.update(prediction, truth)

    def leave_out(self, bad: Sequence[BadSample]) -> None:
        """Names samples in the result that could not be scored."""
        self._left_out.extend(bad)

    def result(
        self,
        scores: SegmentationScores | MultiLabelScores,
        *,
        class_fields: Sequence[str],
        counts: Mapping[str, object],
    ) -> EvalResult:
        """The result of an evaluation by pixels. A collective.

        scores: those over the images of all ranks. class_fields: the fields of `scores` that hold a number per class.
        counts: JSON-ready, the pixel counts that the scores follow from.
        """
        keys, intersection, union, left_out = self._gather()
        low, high = miou_interval(intersection, union, num_resamples=self._num_resamples, seed=self._seed)
        headline = {field: getattr(scores, field) for field in _HEADLINE} | self._own.reduce()
        names = self._class_names
        by_class = {field: dict(zip(names, getattr(scores, field), strict=True)) for field in class_fields}
        document = {
            **{name: finite(value) for name, value in headline.items()},
            "miou_interval": [finite(low), finite(high)],
            "class_names": list(names),
            **by_class,
            "absent_classes": [names[class_id] for class_id in scores.absent],
            **counts,
            "images": len(keys),
            "left_out": [dataclasses.asdict(sample) for sample in left_out],
            "per_image": _extremes(keys, mean_iou(intersection, union)),
        }
        by_name = {f"iou/{name}": iou for name, iou in by_class["iou"].items() if iou is not None}
        return EvalResult(headline={**headline, **by_name}, score_name="miou", document=document, images=len(keys))

    def _gather(self) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64], list[BadSample]]:
        """Keys, intersections (N, C), unions (N, C) and left-out samples of all ranks, by rank. A collective."""
        num_classes = len(self._class_names)
        empty = torch.zeros(0, 2 * num_classes, dtype=torch.int64)
        rows = gather_rows(torch.stack(self._rows) if self._rows else empty).numpy()
        gathered = convert(
            gather_json([self._keys, [dataclasses.asdict(sample) for sample in self._left_out]]),
            list[tuple[list[str], list[BadSample]]],
            "scored images",
        )
        keys = [key for keys, _ in gathered for key in keys]
        left_out = [sample for _, samples in gathered for sample in samples]
        return keys, rows[:, :num_classes], rows[:, num_classes:], left_out


def finite(value: float) -> float | None:
    """The value for JSON, which has no NaN and no infinity: None for them."""
    return value if math.isfinite(value) else None


def _extremes(keys: Sequence[str], miou: NDArray[np.float64]) -> dict[str, list[dict[str, object]]]:
    """The images with the lowest and with the highest mIoU; those without a scored pixel (NaN) are not ranked."""
    ranked = sorted((float(score), key) for score, key in zip(miou, keys, strict=True) if not math.isnan(score))
    return {
        "worst": [{"key": key, "miou": score} for score, key in ranked[:_NUM_EXTREMES]],
        "best": [{"key": key, "miou": score} for score, key in ranked[::-1][:_NUM_EXTREMES]],
    }
