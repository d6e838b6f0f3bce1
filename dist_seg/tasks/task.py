"""The protocol of a task: everything that differs between semantic, multi-label and instance segmentation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from dist_seg.data.loading.batch import Batch
from dist_seg.metrics.instances import ScoredInstance
from dist_seg.tasks.classes import ClassInfo

ModelOutput = torch.Tensor | Mapping[str, torch.Tensor]
"""What a network returns in training: logits, or losses that it computes itself, by name."""
Forward = Callable[..., ModelOutput]
"""The network's forward pass as the engine runs it. It takes normalised images, and the network's other arguments."""
Prediction = torch.Tensor | Sequence[Sequence[ScoredInstance]]
"""Predictions for N images: class ids (N, H, W) int64, labels (N, K, H, W) bool, or each image's instances by falling
score."""


@dataclass(frozen=True, kw_only=True)
class PixelErrors:
    """Where a prediction is wrong, at the image's own size (H, W)."""

    wrong: NDArray[np.bool_]
    """The truth is known and the prediction differs from it. For labels that may overlap: in at least one label."""
    ignored: NDArray[np.bool_]
    """The truth is not known, so the pixel is not scored."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A prediction beside its truth, for people."""

    truth: NDArray[np.integer] | Image.Image
    """Class ids (H, W) of `Task.score_classes`; or the image with its objects or labels drawn over it."""
    prediction: NDArray[np.integer] | Image.Image
    """In the same form as `truth`."""
    errors: PixelErrors


def class_errors(truth: NDArray[np.integer], prediction: NDArray[np.integer], ignore_index: int) -> PixelErrors:
    """The errors between two maps of class ids (H, W); the truth is not known where it holds `ignore_index`."""
    ignored = truth == ignore_index
    return PixelErrors(wrong=(truth != prediction) & ~ignored, ignored=ignored)


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """The result of an evaluation, the same on every rank."""

    headline: Mapping[str, float]
    """Numbers by name for curves and telemetry, `miou` among them."""
    score_name: str
    """The number that decides which checkpoint is best; higher is better."""
    document: Mapping[str, object]
    """All numbers, JSON-ready, for `result.json`."""
    images: int
    """Number of scored images."""

    @property
    def score(self) -> float:
        return self.headline[self.score_name]


class Metric(Protocol):
    """Collects predictions on one rank and reduces them over all ranks."""

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Adds a batch's predictions, and the samples that the batch could not load."""
        ...

    def reduce(self) -> EvalResult:
        """The scores over all ranks. A collective: every rank calls it once, even without images."""
        ...


class Task(Protocol):
    """What the engine needs to know about a kind of segmentation."""

    @property
    def score_classes(self) -> ClassInfo:
        """The classes of the confusion matrix: the data's own; for instances the background comes first."""
        ...

    def build_model(self) -> nn.Module:
        """The network, with the weights that `model.weights` names or random ones. Raises UserError."""
        ...

    def losses(self, forward: Forward, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Scalars by name; `loss`, the mean over the micro-batch, is the one to minimise."""
        ...

    def blank_batch(self, device: torch.device) -> Batch:
        """A blank micro-batch with the shape of training, for warming up and for estimates."""
        ...

    def predict(self, model: nn.Module, images: torch.Tensor, size: Sequence[int]) -> Prediction:
        """Predictions for normalised images (N, C, H, W), at `size` (height, width), as `Metric.update` takes them."""
        ...

    def draw(self, image_HWC: NDArray[np.uint8], prediction: Prediction, batch: Batch) -> Drawing:
        """Draws the only image of an evaluation's batch. image_HWC: its pixels (H, W, 3) before normalisation."""
        ...

    def metric(self) -> Metric:
        """A new metric. Raises ConfigError for an entry of `eval.metrics` that cannot be used."""
        ...
