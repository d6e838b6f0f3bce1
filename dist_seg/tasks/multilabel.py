"""Multi-label segmentation: for every pixel and every class whether it is there, independently of the others."""

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
from dist_seg.losses import build_binary_loss
from dist_seg.masks.drawing import overlay_labels
from dist_seg.metrics.custom import AdditiveMetric, MetricSums, build_metrics
from dist_seg.metrics.multilabel import label_counts, multilabel_scores
from dist_seg.models import build_model
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.image_scores import ImageScores, scored_result
from dist_seg.tasks.logits import blank_images, checked_logits
from dist_seg.tasks.task import Drawing, EvalResult, Forward, PixelErrors, Prediction


class MultiLabelTask:
    """A `Task`."""

    def __init__(self, config: Config, classes: ClassInfo) -> None:
        self._config = config
        self._classes = classes
        self._loss: Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]] | None = None

    @property
    def score_classes(self) -> ClassInfo:
        return self._classes

    def build_model(self) -> nn.Module:
        return build_model(
            self._config.model,
            len(self._classes.names),
            overlapping=True,
            in_channels=input_channels(self._config.data),
        )

    def losses(self, forward: Forward, batch: Batch) -> Mapping[str, torch.Tensor]:
        if self._loss is None:
            self._loss = build_binary_loss(self._config.loss, self._classes.ignore_index)
        return self._loss(checked_logits(forward, batch, len(self._classes.names), self._config), batch.targets)

    def blank_batch(self, device: torch.device) -> Batch:
        images = blank_images(self._config, device)
        shape = (len(images), len(self._classes.names), *images.shape[-2:])
        targets = torch.zeros(shape, dtype=torch.uint8, device=device)
        return Batch(images=images, targets=targets, keys=("",) * len(images))

    @torch.inference_mode()
    def predict(self, model: nn.Module, images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """(N, K, height, width) bool at `size`: where a label's probability is above `eval.label_threshold`."""
        return self.predict_probabilities(model, images, size) > self._config.eval.label_threshold

    @torch.inference_mode()
    def predict_probabilities(self, model: nn.Module, images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """(N, K, height, width), from logits resized bilinearly, averaged with the mirrored image's where asked for."""
        probabilities = _resized(model(images).float(), size).sigmoid()
        if not self._config.eval.flip:
            return probabilities
        return (probabilities + _resized(model(images.flip(-1)).float().flip(-1), size).sigmoid()) / 2

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
        scoring = self._config.eval
        own = build_metrics(scoring.metrics, self._classes.names, self._classes.ignore_index)
        return MultiLabelMetric(
            self._classes, own, bootstrap_samples=scoring.bootstrap_samples, seed=self._config.train.seed
        )


class MultiLabelMetric:
    """A `Metric`: every label's counts over all pixels, and each image's intersections and unions for the interval."""

    def __init__(
        self, classes: ClassInfo, own: Sequence[AdditiveMetric] = (), *, bootstrap_samples: int, seed: int
    ) -> None:
        """own: metrics of the user's."""
        self._classes = classes
        self._own = MetricSums(own)
        self._bootstrap_samples = bootstrap_samples
        self._seed = seed
        self._counts = torch.zeros(len(classes.names), 4, dtype=torch.int64)
        self._images = ImageScores(len(classes.names))

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """prediction: (N, K, H, W) bool, as large as the targets."""
        self.leave_out(batch.bad)
        for key, predicted, truth in zip(batch.keys, prediction, batch.targets, strict=True):
            assert isinstance(predicted, torch.Tensor)
            counts = label_counts(predicted, truth, self._classes.ignore_index).cpu()
            self._counts += counts
            hits, false_positives, false_negatives, _ = counts.numpy().T
            self._images.add(key, hits, hits + false_positives + false_negatives)
            self._own.update(predicted, truth)

    def leave_out(self, bad: Sequence[BadSample]) -> None:
        """Has samples that could not be scored named in the result."""
        self._images.leave_out(bad)

    def reduce(self) -> EvalResult:
        counts = sum_over_ranks(self._counts).numpy()
        images = self._images.gather()
        fields = ("true_positives", "false_positives", "false_negatives", "true_negatives")
        rows = zip(self._classes.names, counts.tolist(), strict=True)
        by_label = {name: dict(zip(fields, row, strict=True)) for name, row in rows}
        return scored_result(
            multilabel_scores(counts),
            self._classes.names,
            images,
            interval=images.interval(num_resamples=self._bootstrap_samples, seed=self._seed),
            own=self._own.reduce(),
            by_class_fields=("iou", "dice", "class_accuracy", "precision"),
            counts={"label_counts": by_label},
        )


def _resized(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
