"""Semantic segmentation: one class for every pixel."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from dist_seg.config.schema import Config
from dist_seg.data.codecs.encoded import BadSample
from dist_seg.data.loading.batch import Batch
from dist_seg.data.view.pixel_values import input_channels
from dist_seg.distributed.collectives import sum_over_ranks
from dist_seg.losses import build_loss
from dist_seg.metrics.confusion import confusion_matrix, intersection_and_union, scores
from dist_seg.metrics.custom import AdditiveMetric, MetricSums, build_metrics
from dist_seg.models import build_model
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.image_scores import ImageScores, scored_result
from dist_seg.tasks.logits import blank_images, checked_logits
from dist_seg.tasks.task import Drawing, EvalResult, Forward, Prediction, class_errors


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
        return build_model(self._config.model, len(self._classes.names), in_channels=input_channels(self._config.data))

    def losses(self, forward: Forward, batch: Batch) -> Mapping[str, torch.Tensor]:
        if self._loss is None:
            self._loss = build_loss(
                self._config.loss, len(self._classes.names), self._classes.ignore_index, self._class_pixels
            )
        return self._loss(checked_logits(forward, batch, len(self._classes.names), self._config), batch.targets)

    def blank_batch(self, device: torch.device) -> Batch:
        images = blank_images(self._config, device)
        targets = torch.zeros(len(images), *images.shape[-2:], dtype=torch.int64, device=device)
        return Batch(images=images, targets=targets, keys=("",) * len(images))

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
        truth, predicted = batch.targets[0].cpu().numpy(), prediction[0].cpu().numpy()
        errors = class_errors(truth, predicted, self._classes.ignore_index)
        return Drawing(truth=truth, prediction=predicted, errors=errors)

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
        self._images = ImageScores(num_classes)

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """prediction: (N, H, W) class ids, as large as the targets."""
        self.leave_out(batch.bad)
        for key, predicted, truth in zip(batch.keys, prediction, batch.targets, strict=True):
            assert isinstance(predicted, torch.Tensor)
            self.add(key, predicted, truth)

    def leave_out(self, bad: Sequence[BadSample]) -> None:
        """Has samples that could not be scored named in the result."""
        self._images.leave_out(bad)

    def add(self, key: str, prediction: torch.Tensor, truth: torch.Tensor) -> None:
        """One image: class ids (H, W), the truth with the ignore index."""
        matrix = confusion_matrix(prediction, truth, len(self._classes.names), self._classes.ignore_index).cpu()
        self._matrix += matrix
        hits, union = intersection_and_union(matrix[None].numpy())
        self._images.add(key, hits[0], union[0])
        self._own.update(prediction, truth)

    def reduce(self) -> EvalResult:
        matrix = sum_over_ranks(self._matrix).numpy()
        images = self._images.gather()
        return scored_result(
            scores(matrix),
            self._classes.names,
            images,
            interval=images.interval(num_resamples=self._bootstrap_samples, seed=self._seed),
            own=self._own.reduce(),
            by_class_fields=("iou", "dice", "class_accuracy"),
            counts={"confusion_matrix": matrix.tolist()},
        )
