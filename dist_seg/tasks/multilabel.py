"""Multi-label segmentation: labels that may overlap, each present or absent at every pixel.

K is the number of labels.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dist_seg.config.schema import Config
from dist_seg.data.loading.batch import Batch
from dist_seg.data.view.pixel_values import input_channels
from dist_seg.distributed.collectives import sum_over_ranks
from dist_seg.losses import LossFunction, build_binary_loss
from dist_seg.masks.drawing import overlay_labels
from dist_seg.metrics.multilabel import label_counts, multilabel_scores
from dist_seg.models import build_model
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.image_scores import ImageScores
from dist_seg.tasks.network_io import blank_images, checked_logits, resized
from dist_seg.tasks.task import Drawing, EvalResult, Forward, PixelErrors, Prediction


class MultiLabelTask:
    """A `Task`. A prediction is (N, K, H, W) bool."""

    def __init__(self, config: Config, classes: ClassInfo) -> None:
        self._config = config
        self._classes = classes

    @property
    def score_classes(self) -> ClassInfo:
        return self._classes

    @cached_property
    def _loss(self) -> LossFunction:
        return build_binary_loss(self._config.loss, self._classes.ignore_index)

    def build_model(self) -> nn.Module:
        return build_model(
            self._config.model,
            len(self._classes.names),
            overlapping=True,
            in_channels=input_channels(self._config.data),
        )

    def losses(self, forward: Forward, batch: Batch) -> Mapping[str, torch.Tensor]:
        return self._loss(checked_logits(forward, batch, len(self._classes.names), self._config), batch.targets)

    def blank_batch(self, device: torch.device) -> Batch:
        images = blank_images(self._config, device)
        shape = (len(images), len(self._classes.names), *images.shape[-2:])
        targets = torch.zeros(shape, dtype=torch.uint8, device=device)
        return Batch(images=images, targets=targets, keys=("",) * len(images))

    @torch.inference_mode()
    def predict(self, model: nn.Module, images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """(N, K, height, width) bool at `size`: whether a label's probability is above `eval.label_threshold`."""
        return self.predict_probabilities(model, images, size) > self._config.eval.label_threshold

    @torch.inference_mode()
    def predict_probabilities(self, model: nn.Module, images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """(N, K, height, width) float32 in [0, 1] at `size`, from logits resized bilinearly.

        With `eval.flip`, the mean of the probabilities for the image and for its mirror image.
        """
        probabilities = resized(model(images).float(), size).sigmoid()
        if not self._config.eval.flip:
            return probabilities
        return (probabilities + resized(model(images.flip(-1)).float().flip(-1), size).sigmoid()) / 2

    def draw(self, image_HWC: NDArray[np.uint8], prediction: Prediction, batch: Batch) -> Drawing:
        """A pixel is ignored if no label is known there, and wrong if any known label is."""
        assert isinstance(prediction, torch.Tensor)
        truth, predicted = batch.targets[0].cpu().numpy(), prediction[0].cpu().numpy()
        present, known = truth == 1, truth != self._classes.ignore_index
        return Drawing(
            truth=overlay_labels(image_HWC, present, self._classes.palette),
            prediction=overlay_labels(image_HWC, predicted, self._classes.palette),
            errors=PixelErrors(wrong=((present != predicted) & known).any(axis=0), ignored=~known.any(axis=0)),
        )

    def metric(self) -> "MultiLabelMetric":
        return MultiLabelMetric(self._config, self._classes)


class MultiLabelMetric:
    """A `Metric`: the counts of every label over all pixels, and the scores of each image."""

    def __init__(self, config: Config, classes: ClassInfo) -> None:
        self._classes = classes
        self._counts = torch.zeros(len(classes.names), 4, dtype=torch.int64)
        self._images = ImageScores(config, classes)

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """prediction: (N, K, H, W) bool, as large as the targets."""
        self._images.leave_out(batch.bad)
        for key, predicted, truth in zip(batch.keys, prediction, batch.targets, strict=True):
            assert isinstance(predicted, torch.Tensor)
            counts = label_counts(predicted, truth, self._classes.ignore_index).cpu()
            self._counts += counts
            hits, false_positives, false_negatives, _ = counts.numpy().T
            self._images.add(key, hits, hits + false_positives + false_negatives)
            self._images.add_to_own(predicted, truth)

    def reduce(self) -> EvalResult:
        counts = sum_over_ranks(self._counts).numpy()
        fields = ("true_positives", "false_positives", "false_negatives", "true_negatives")
        rows = zip(self._classes.names, counts.tolist(), strict=True)
        return self._images.result(
            multilabel_scores(counts),
            class_fields=("iou", "dice", "class_accuracy", "precision"),
            counts={"label_counts": {name: dict(zip(fields, row, strict=True)) for name, row in rows}},
        )
