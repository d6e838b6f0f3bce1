"""How one picture is segmented, for the task and the options of a prediction."""

import argparse

import torch
from PIL import Image

from dist_seg.data.codecs.npy import Values
from dist_seg.data.view.pixel_values import shown
from dist_seg.distributed.world import World
from dist_seg.masks.drawing import overlay, overlay_labels
from dist_seg.models.mask_rcnn.targets import Detections
from dist_seg.predict.instances import id_map, predict_instances
from dist_seg.predict.masks import predict_labels, predict_mask
from dist_seg.predict.pictures import Segment, Segmented
from dist_seg.runs.model import TrainedModel
from dist_seg.runtime.precision import autocast, dtype_of, resolve_precision
from dist_seg.tasks.instance import InstanceTask
from dist_seg.tasks.multilabel import MultiLabelTask
from dist_seg.tasks.semantic import SemanticTask


def segmenter(trained: TrainedModel, world: World, options: argparse.Namespace) -> Segment:
    precision = resolve_precision(trained.config.train.precision, world.device)
    task, data, window = trained.task, trained.config.data, options.window

    def classes_of(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        assert isinstance(task, SemanticTask)
        with autocast(precision, world.device):
            return task.predict_logits(trained.model, images.to(dtype_of(precision)), size)

    def detect(images: torch.Tensor) -> Detections:
        assert isinstance(task, InstanceTask)
        with autocast(precision, world.device):
            return task.detect(trained.model, images.to(dtype_of(precision)))[0]

    def semantic(image_hwc: Values) -> Segmented:
        mask = predict_mask(image_hwc, classes_of, data=data, device=world.device, window=window)
        return Segmented(
            mask=mask, overlay=Image.fromarray(overlay(shown(image_hwc, data), mask, trained.classes.palette))
        )

    def instances(image_hwc: Values) -> Segmented:
        assert isinstance(task, InstanceTask)
        found = predict_instances(
            image_hwc,
            detect,
            data=data,
            device=world.device,
            mask_threshold=trained.config.mask_rcnn.mask_threshold,
            window=window,
        )
        least = trained.config.eval.merge_threshold if options.min_score is None else options.min_score
        sure = [instance for instance in found if instance.score >= least]
        return Segmented(
            mask=id_map(sure, *image_hwc.shape[:2]),
            overlay=task.draw_instances(shown(image_hwc, data), sure),
            instances=found,
        )

    def probabilities_of(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        assert isinstance(task, MultiLabelTask)
        with autocast(precision, world.device):
            return task.predict_probabilities(trained.model, images.to(dtype_of(precision)), size)

    def labels(image_hwc: Values) -> Segmented:
        threshold = trained.config.eval.label_threshold
        found = predict_labels(
            image_hwc, probabilities_of, threshold=threshold, data=data, device=world.device, window=window
        )
        return Segmented(mask=found, overlay=overlay_labels(shown(image_hwc, data), found, trained.classes.palette))

    match task:
        case InstanceTask():
            return instances
        case MultiLabelTask():
            return labels
        case _:
            return semantic
