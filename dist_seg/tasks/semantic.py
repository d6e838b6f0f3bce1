"""Semantic segmentation: one class for every pixel."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dist_seg.config.schema import Config
from dist_seg.data.codecs.encoded import BadSample
from dist_seg.data.loading.batch import Batch
from dist_seg.data.view.pixel_values import input_channels
from dist_seg.distributed.collectives import sum_over_ranks
from dist_seg.losses import LossFunction, build_loss
from dist_seg.metrics.confusion import confusion_matrix, intersection_and_union, segmentation_scores
from dist_seg.models import build_model
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.image_scores import ImageScores
from dist_seg.tasks.network_io import blank_images, checked_logits, resized
from dist_seg.tasks.task import Drawing, EvalResult, Forward, Prediction, class_errors


class SemanticTask:
    """A `Task`. A prediction is (N, H, W) int64 class ids."""

    def __init__(self, config: Config, classes: ClassInfo, class_pixels: Sequence[int] = ()) -> None:
        """class_pixels: pixels of every class in the training split, for class weights; needed in training only."""
        self._config = config
        self._classes = classes
        self._class_pixels = class_pixels

    @property
    def score_classes(self) -> ClassInfo:
        return self._classes

    @cached_property
    def _loss(self) -> LossFunction:
        return build_loss(self._config.loss, len(self._classes.names), self._classes.ignore_index, self._class_pixels)

    def build_model(self) -> nn.Module:
        return build_model(self._config.model, len(self._classes.names), in_channels=input_channels(self._config.data))

    def losses(self, forward: Forward, batch: Batch) -> Mapping[str, torch.Tensor]:
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
        """(N, C, height, width) float32 at `size`.

        With `eval.flip`, logarithms of the mean of the probabilities for the image and for its mirror image.
        """
        logits: torch.Tensor = model(images).float()
        if not self._config.eval.flip:
            return resized(logits, size)
        mirrored = model(images.flip(-1)).float().flip(-1)
        probabilities = (logits.softmax(dim=1) + mirrored.softmax(dim=1)) / 2
        return resized(probabilities, size).clamp_min(1e-30).log()

    def draw(self, image_HWC: NDArray[np.uint8], prediction: Prediction, batch: Batch) -> Drawing:
        assert isinstance(prediction, torch.Tensor)
        truth, predicted = batch.targets[0].cpu().numpy(), prediction[0].cpu().numpy()
        errors = class_errors(truth, predicted, self._classes.ignore_index)
        return Drawing(truth=truth, prediction=predicted, errors=errors)

    def metric(self) -> "SemanticMetric":
        return SemanticMetric(self._config, self._classes)


class SemanticMetric:
    """A `Metric`: the confusion matrix of all pixels, and the scores of each image."""

    def __init__(self, config: Config, classes: ClassInfo) -> None:
        self._num_classes, self._ignore_index = len(classes.names), classes.ignore_index
        self._matrix = torch.zeros(self._num_classes, self._num_classes, dtype=torch.int64)
        self._images = ImageScores(config, classes)

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """prediction: (N, H, W) integer class ids, as large as the targets."""
        self.leave_out(batch.bad)
        for key, predicted, truth in zip(batch.keys, prediction, batch.targets, strict=True):
            assert isinstance(predicted, torch.Tensor)
            self.add(key, predicted, truth)

    def leave_out(self, bad: Sequence[BadSample]) -> None:
        """Names samples in the result that could not be scored."""
        self._images.leave_out(bad)

    def add(self, key: str, prediction: torch.Tensor, truth: torch.Tensor) -> None:
        """Scores one image: class ids (H, W), the ignore index in the truth included."""
        matrix = confusion_matrix(prediction, truth, self._num_classes, self._ignore_index).cpu()
        self._matrix += matrix
        intersection, union = intersection_and_union(matrix[None].numpy())
        self._images.add(key, intersection[0], union[0])
        self._images.add_to_own(prediction, truth)

    def reduce(self) -> EvalResult:
        matrix = sum_over_ranks(self._matrix).numpy()
        return self._images.result(
            segmentation_scores(matrix),
            class_fields=("iou", "dice", "class_accuracy"),
            counts={"confusion_matrix": matrix.tolist()},
        )
