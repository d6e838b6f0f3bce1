"""How one picture is segmented by a trained model, for every kind of task."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image

from dist_seg.config.schema import DataConfig
from dist_seg.data.codecs.npy import Values
from dist_seg.data.view.pixel_values import shown
from dist_seg.masks.drawing import overlay, overlay_labels
from dist_seg.models.mask_rcnn.detections import Detections
from dist_seg.predict.instances import id_map, predict_instances
from dist_seg.predict.masks import predict_labels, predict_mask
from dist_seg.predict.pictures import Segment, Segmented
from dist_seg.runs.model import TrainedModel
from dist_seg.runtime.precision import Precision, autocast, dtype_of, resolve_precision
from dist_seg.tasks.instance import InstanceTask
from dist_seg.tasks.multilabel import MultiLabelTask
from dist_seg.tasks.semantic import SemanticTask


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """A trained model as a function of pictures."""

    kind: Literal["class_ids", "label_layers", "objects"]
    """What a mask holds: class ids, a layer for each label, or ids of objects, which are listed as well."""
    segment: Segment


@dataclass(frozen=True, kw_only=True)
class _Network:
    """A trained network, and what its input needs."""

    trained: TrainedModel
    device: torch.device
    precision: Precision
    window: int | None
    """Side in pixels of the windows of large pictures; None chooses it."""

    @property
    def data(self) -> DataConfig:
        return self.trained.config.data

    def prepared(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(dtype_of(self.precision))

    def autocast(self) -> AbstractContextManager[None]:
        return autocast(self.precision, self.device)


def build_segmenter(
    trained: TrainedModel, device: torch.device, *, window: int | None = None, min_score: float | None = None
) -> Segmenter:
    """The segmenter of a trained model.

    window: side in pixels of the windows of large pictures; None takes windows of 1024 pixels for pictures of more than
    2048 x 2048. min_score: instances with a lower score are left out of masks and overlays; None takes
    `eval.merge_threshold`.
    """
    precision = resolve_precision(trained.config.train.precision, device)
    network = _Network(trained=trained, device=device, precision=precision, window=window)
    match trained.task:
        case SemanticTask() as task:
            return Segmenter(kind="class_ids", segment=_by_class(network, task))
        case MultiLabelTask() as task:
            return Segmenter(kind="label_layers", segment=_by_label(network, task))
        case InstanceTask() as task:
            least = trained.config.eval.merge_threshold if min_score is None else min_score
            return Segmenter(kind="objects", segment=_by_object(network, task, least))
        case other:
            raise TypeError(f"no pictures can be segmented with a {type(other).__name__}")


def _by_class(network: _Network, task: SemanticTask) -> Segment:
    trained = network.trained

    def logits_of(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        with network.autocast():
            return task.predict_logits(trained.model, network.prepared(images), size)

    def segment(image_hwc: Values) -> Segmented:
        mask = predict_mask(image_hwc, logits_of, data=network.data, device=network.device, window=network.window)
        drawn = overlay(shown(image_hwc, network.data), mask, trained.classes.palette)
        return Segmented(mask=mask, overlay=Image.fromarray(drawn))

    return segment


def _by_label(network: _Network, task: MultiLabelTask) -> Segment:
    trained = network.trained

    def probabilities_of(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        with network.autocast():
            return task.predict_probabilities(trained.model, network.prepared(images), size)

    def segment(image_hwc: Values) -> Segmented:
        layers = predict_labels(
            image_hwc,
            probabilities_of,
            threshold=trained.config.eval.label_threshold,
            data=network.data,
            device=network.device,
            window=network.window,
        )
        drawn = overlay_labels(shown(image_hwc, network.data), layers, trained.classes.palette)
        return Segmented(mask=layers, overlay=drawn)

    return segment


def _by_object(network: _Network, task: InstanceTask, min_score: float) -> Segment:
    trained = network.trained

    def detect(images: torch.Tensor) -> Detections:
        with network.autocast():
            return task.detect(trained.model, network.prepared(images))[0]

    def segment(image_hwc: Values) -> Segmented:
        found = predict_instances(
            image_hwc,
            detect,
            data=network.data,
            device=network.device,
            mask_threshold=trained.config.mask_rcnn.mask_threshold,
            window=network.window,
        )
        certain = [instance for instance in found if instance.score >= min_score]
        return Segmented(
            mask=id_map(certain, *image_hwc.shape[:2]),
            overlay=task.draw_instances(shown(image_hwc, network.data), certain),
            instances=found,
        )

    return segment
