"""Builds the task that a configuration names."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from dist_seg.config.schema import Config
from dist_seg.errors import ConfigError
from dist_seg.models.norm import resolve_norm
from dist_seg.runtime.precision import dtype_of, resolve_precision
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.instance import InstanceTask
from dist_seg.tasks.multilabel import MultiLabelTask
from dist_seg.tasks.semantic import SemanticTask
from dist_seg.tasks.task import Task


def build_task(config: Config, classes: ClassInfo, class_pixels: Sequence[int] = ()) -> Task:
    """The task of `config.task`. class_pixels: pixels of every class in the training split; semantic training only."""
    match config.task:
        case "semantic":
            return SemanticTask(config, classes, class_pixels)
        case "multilabel":
            return MultiLabelTask(config, classes)
        case "instance":
            return InstanceTask(config, classes)
        case "auto":
            raise ConfigError("task=auto: the task must be chosen from the data before it is built")


def build_model(task: Task, config: Config, device: torch.device) -> nn.Module:
    """The task's network on a device, in the number format and memory layout of `config.train`."""
    precision = resolve_precision(config.train.precision, device)
    model = task.build_model().to(device, dtype_of(precision))
    return model.to(memory_format=torch.channels_last) if config.train.channels_last else model


def for_one_process(config: Config) -> Config:
    """The configuration with plain batch norm in place of synchronised batch norm.

    The latter waits for other ranks in training and cannot be built without a GPU. In evaluation both are the same.
    """
    norm = resolve_norm(config.model.norm, config.task, config.model.weights)
    return replace(config, model=replace(config.model, norm="batch" if norm == "sync" else norm))
