"""Semantic segmentation: one class for every pixel."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from dist_seg.config.schema import Config
from dist_seg.data.batch import BadSample, Batch
from dist_seg.errors import ConfigError
from dist_seg.losses import build_loss
from dist_seg.metrics.confusion import (
    bootstrap_interval,
    confusion_matrix,
    intersection_and_union,
    mean_iou,
    scores,
)
from dist_seg.metrics.custom import AdditiveMetric, MetricSums, build_metrics
from dist_seg.models import build_model
from dist_seg.runtime.collectives import gather_json, gather_rows, sum_over_ranks
from dist_seg.tasks.task import ClassInfo, Drawing, EvalResult, Forward, Prediction

_NUM_EXTREMES = 6


class SemanticTask:
    """A `Task`. `class_pixels` is the training data's histogram, which class weights are made of."""

    def __init__(self, config: Config, classes: ClassInfo, class_pixels: Sequence[int] = ()) -> None:
        self._config = config
        self._classes = classes
        self._class_pixels = class_pixels
        self._loss: Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]] | None = None

    @property
    def score_classes(self) -> ClassInfo:
        return self._classes

    def build_model(self) -> nn.Module:
        return build_model(self._config.model, len(self._classes.names))

    def losses(self, forward: Forward, batch: Batch) -> Mapping[str, torch.Tensor]:
        if self._loss is None:
            self._loss = build_loss(
                self._config.loss, len(self._classes.names), self._classes.ignore_index, self._class_pixels
            )
        logits = forward(batch.images)
        if not isinstance(logits, torch.Tensor):
            raise ConfigError(
                f"model.name: {self._config.model.name}: a network for the task `semantic` must return logits "
                f"(B, C, H, W), this one returned a {type(logits).__name__}"
            )
        wanted = (len(batch.targets), len(self._classes.names), *batch.targets.shape[-2:])
        if tuple(logits.shape) != wanted:
            raise ConfigError(
                f"model.name: {self._config.model.name}: the network returned logits of the shape "
                f"{tuple(logits.shape)}, expected {wanted}: images, classes, height and width of the images"
            )
        if logits.dtype == torch.bfloat16:
            logits = logits.float()
        return self._loss(logits, batch.targets)

    def blank_batch(self, device: torch.device) -> Batch:
        train, augment = self._config.train, self._config.augment
        assert train.micro_batch is not None and augment.crop_height is not None and augment.crop_width is not None
        shape = (train.micro_batch, augment.crop_height, augment.crop_width)
        images = torch.zeros(shape[0], 3, *shape[1:], device=device)
        if train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        targets = torch.zeros(shape, dtype=torch.int64, device=device)
        return Batch(images=images, targets=targets, keys=("",) * shape[0])

    @torch.inference_mode()
    def predict(self, model: nn.Module, images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Class ids (N, height, width) int64 at `size`, from logits resized bilinearly."""
        return self.predict_logits(model, images, size).argmax(dim=1)

    @torch.inference_mode()
    def predict_logits(self, model: nn.Module, images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """(N, C, height, width); logarithms of mean probabilities where the mirrored image is averaged in."""
        logits: torch.Tensor = model(images).float()
        if self._config.eval.flip:
            mirrored = model(images.flip(-1)).float().flip(-1)
            logits = (logits.softmax(dim=1) + mirrored.softmax(dim=1)) / 2
        if tuple(logits.shape[-2:]) != tuple(size):
            logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
        return logits.clamp_min(1e-30).log() if self._config.eval.flip else logits

    def draw(self, image_HWC: NDArray[np.uint8], prediction: Prediction, batch: Batch) -> Drawing:
        assert isinstance(prediction, torch.Tensor)
        return Drawing(truth=batch.targets[0].cpu().numpy(), prediction=prediction[0].cpu().numpy())

    def metric(self) -> "SemanticMetric":
        scoring = self._config.eval
        own = build_metrics(scoring.metrics, self._classes.names, self._classes.ignore_index)
        return SemanticMetric(
            self._classes, own, bootstrap_samples=scoring.bootstrap_samples, seed=self._config.train.seed
        )


class SemanticMetric:
    """A `Metric`: the confusion matrix of all pixels, and each image's intersections and unions for the interval."""

    def __init__(
        self, classes: ClassInfo, own: Sequence[AdditiveMetric] = (), *, bootstrap_samples: int, seed: int
    ) -> None:
        """own: metrics of the user's."""
        self._classes = classes
        self._own = MetricSums(own)
        self._bootstrap_samples = bootstrap_samples
        self._seed = seed
        num_classes = len(classes.names)
        self._matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self._per_image: list[torch.Tensor] = []
        self._keys: list[str] = []
        self._left_out: list[dict[str, str]] = []

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """prediction: (N, H, W) class ids, as large as the targets."""
        self.leave_out(batch.bad)
        for key, predicted, truth in zip(batch.keys, prediction, batch.targets, strict=True):
            assert isinstance(predicted, torch.Tensor)
            self.add(key, predicted, truth)

    def leave_out(self, bad: Sequence[BadSample]) -> None:
        """Has samples that could not be scored named in the result."""
        self._left_out.extend(dataclasses.asdict(sample) for sample in bad)

    def add(self, key: str, prediction: torch.Tensor, truth: torch.Tensor) -> None:
        """One image: class ids (H, W), the truth with the ignore index."""
        matrix = confusion_matrix(prediction, truth, len(self._classes.names), self._classes.ignore_index).cpu()
        self._matrix += matrix
        hits, union = intersection_and_union(matrix[None].numpy())
        self._per_image.append(torch.from_numpy(np.concatenate([hits[0], union[0]])))
        self._keys.append(key)
        self._own.update(prediction, truth)

    def reduce(self) -> EvalResult:
        num_classes = len(self._classes.names)
        matrix = sum_over_ranks(self._matrix).numpy()
        empty = torch.zeros(0, 2 * num_classes, dtype=torch.int64)
        rows = gather_rows(torch.stack(self._per_image) if self._per_image else empty).numpy()
        hits, union = rows[:, :num_classes], rows[:, num_classes:]
        gathered = gather_json([self._keys, self._left_out])
        keys: list[str] = [key for part in gathered for key in part[0]]  # type: ignore[index]  # as sent above
        left_out = [sample for part in gathered for sample in part[1]]  # type: ignore[index]
        low, high = bootstrap_interval(hits, union, num_resamples=self._bootstrap_samples, seed=self._seed)
        result = scores(matrix)
        by_class = {
            field: dict(zip(self._classes.names, getattr(result, field), strict=True))
            for field in ("iou", "dice", "class_accuracy")
        }
        headline = {
            field: getattr(result, field)
            for field in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "mean_dice")
        }
        headline |= self._own.reduce()
        ranked = sorted(
            (float(score), key) for score, key in zip(mean_iou(hits, union), keys, strict=True) if not math.isnan(score)
        )
        document = {
            **{name: finite(value) for name, value in headline.items()},
            "miou_interval": [finite(low), finite(high)],
            "class_names": list(self._classes.names),
            **by_class,
            "absent_classes": [self._classes.names[c] for c in result.absent],
            "confusion_matrix": matrix.tolist(),
            "images": len(keys),
            "left_out": left_out,
            "per_image": {
                "worst": [{"key": key, "miou": score} for score, key in ranked[:_NUM_EXTREMES]],
                "best": [{"key": key, "miou": score} for score, key in ranked[::-1][:_NUM_EXTREMES]],
            },
        }
        by_name = {f"iou/{name}": iou for name, iou in by_class["iou"].items() if iou is not None}
        return EvalResult(headline={**headline, **by_name}, score_name="miou", document=document, images=len(keys))


def finite(value: float) -> float | None:
    """None, as JSON knows it, for what is not a number."""
    return value if math.isfinite(value) else None
