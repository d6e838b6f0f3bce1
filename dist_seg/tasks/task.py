"""What differs between kinds of training, and nothing else."""

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
"""What a network gives in training: logits, or the losses that it computes itself."""
Forward = Callable[..., ModelOutput]
"""The network's forward pass as the engine runs it: images, normalised, and whatever else the network takes."""
Prediction = torch.Tensor | Sequence[Sequence[ScoredInstance]]
"""Of some images: class ids (N, H, W), or each image's instances, the surest first."""


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
    """An evaluation's outcome, the same on every rank."""

    headline: Mapping[str, float]
    """Numbers for curves and metrics; `miou` is among them."""
    score_name: str
    """Which of them tells the best checkpoint; higher is better."""
    document: Mapping[str, object]
    """Everything, JSON-ready: what `result.json` holds."""
    images: int

    @property
    def score(self) -> float:
        return self.headline[self.score_name]


class Metric(Protocol):
    """Collects predictions on one rank and reduces them over all."""

    def update(self, prediction: Prediction, batch: Batch) -> None: ...

    def reduce(self) -> EvalResult:
        """A collective: every rank calls it once, also one that saw no image."""
        ...


class Task(Protocol):
    """Everything the engine needs to know of a kind of segmentation."""

    @property
    def score_classes(self) -> ClassInfo:
        """The classes of the confusion matrix: the data's own, and for instances the background before them."""
        ...

    def build_model(self) -> nn.Module: ...

    def losses(self, forward: Forward, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Scalars by name; `loss` is the one that is trained, the mean over the micro-batch."""
        ...

    def blank_batch(self, device: torch.device) -> Batch:
        """A micro-batch of the training's shape without any content, for warming up and for estimates."""
        ...

    def predict(self, model: nn.Module, images: torch.Tensor, size: Sequence[int]) -> Prediction:
        """What `Metric.update` takes, at `size` (height, width)."""
        ...

    def draw(self, image_HWC: NDArray[np.uint8], prediction: Prediction, batch: Batch) -> Drawing:
        """The only image of an evaluation's batch; image_HWC: as it is in its file."""
        ...

    def metric(self) -> Metric: ...
