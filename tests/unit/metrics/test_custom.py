"""The user's own metrics: summed over images, and refused if they are not metrics."""

from collections.abc import Mapping

import pytest
import torch

from dist_seg.config.load import load_config
from dist_seg.data.loading.batch import Batch
from dist_seg.errors import ConfigError
from dist_seg.metrics.custom import MetricSums, build_metrics
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.semantic import SemanticTask

CLASSES = ClassInfo(names=("road", "sky"), palette=((0, 0, 0), (255, 255, 255)), ignore_index=255)


class WrongPixels:
    """The mean number of wrong pixels per image."""

    def __init__(self, class_names: tuple[str, ...], ignore_index: int) -> None:
        assert class_names == CLASSES.names
        self.ignore_index = ignore_index

    def of_image(self, prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        wrong = (prediction != truth) & (truth != self.ignore_index)
        return torch.stack([wrong.sum(), torch.tensor(1)])

    def result(self, total: torch.Tensor) -> Mapping[str, float]:
        return {"wrong_pixels": (total[0] / total[1]).item()}


def nothing(class_names: tuple[str, ...], ignore_index: int) -> object:
    return object()


def test_results_stand_beside_the_miou() -> None:
    config = load_config([], [f"eval.metrics=[{__name__}:WrongPixels]"])
    metric = SemanticTask(config, CLASSES).metric()
    truth = torch.tensor([[[0, 1], [255, 1]], [[1, 1], [1, 1]]])
    metric.update(torch.zeros_like(truth), Batch(images=truth, targets=truth, keys=("a", "b")))
    result = metric.reduce()
    assert result.headline["wrong_pixels"] == result.document["wrong_pixels"] == (2 + 4) / 2


def test_without_an_image_there_is_no_number() -> None:
    assert MetricSums([WrongPixels(CLASSES.names, 255)]).reduce() == {}


@pytest.mark.parametrize(
    ("path", "message"),
    [(f"{__name__}:nothing", "no method of_image"), ("no.such:metric", "cannot import"), ("x", "of the form")],
)
def test_what_is_no_metric_is_an_error_that_names_the_setting(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"eval\.metrics: .*{message}"):
        build_metrics([path], CLASSES.names, 255)
