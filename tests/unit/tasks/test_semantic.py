"""The semantic task: which outputs of a network it accepts."""

import pytest
import torch

from dist_seg.config.schema import Config
from dist_seg.data.loading.batch import Batch
from dist_seg.errors import ConfigError
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.semantic import SemanticTask

CLASSES = ClassInfo(names=("a", "b", "c"), palette=((0, 0, 0),) * 3, ignore_index=255)
BATCH = Batch(images=torch.zeros(2, 3, 8, 12), targets=torch.zeros(2, 8, 12, dtype=torch.int64), keys=("x", "y"))


@pytest.mark.parametrize("shape", [(2, 2, 8, 12), (2, 3, 4, 6), (2, 3, 8), (1, 3, 8, 12)])
def test_logits_of_another_shape_are_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"model\.name.*\(2, 3, 8, 12\)") as error:
        SemanticTask(Config(task="semantic"), CLASSES, (1, 1, 1)).losses(lambda images: torch.zeros(shape), BATCH)
    assert str(shape) in str(error.value)


def test_something_else_than_logits_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must return logits.*returned a dict"):
        SemanticTask(Config(task="semantic"), CLASSES, (1, 1, 1)).losses(lambda images: {"out": images}, BATCH)
