"""Builds the task that a configuration names."""

from collections.abc import Sequence

from dist_seg.config.schema import Config
from dist_seg.errors import ConfigError
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
