"""The user's own metrics. They are exact at any number of ranks because all they keep is a sum over images."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

from dist_seg.distributed.collectives import gather_json, sum_over_ranks
from dist_seg.errors import ConfigError
from dist_seg.runtime.documents import convert
from dist_seg.runtime.dotted_path import import_function

_SETTING = "eval.metrics"


@runtime_checkable
class AdditiveMetric(Protocol):
    """What a function named in `eval.metrics` must return."""

    def of_image(self, prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """One image's contribution: a 1-D tensor of a fixed length. Integers are summed exactly.

        prediction, truth: int64 class ids (H, W) at the image's own size; the truth may hold the ignore index. Labels
        that may overlap come as bool and uint8 (K, H, W), instances as maps of classes with 0 for the background.
        """
        ...

    def result(self, total: torch.Tensor) -> Mapping[str, float]:
        """The metric's numbers by name; total: the sum of all images' contributions, float64 or int64."""
        ...


def build_metrics(paths: Sequence[str], class_names: tuple[str, ...], ignore_index: int) -> list[AdditiveMetric]:
    """Calls the function at each dotted path with the class names and the ignore index.

    Raises ConfigError, which names the path, if there is no such function or if it does not return a metric.
    """
    return [_build(path, class_names, ignore_index) for path in paths]


def _build(path: str, class_names: tuple[str, ...], ignore_index: int) -> AdditiveMetric:
    metric = import_function(path, _SETTING)(class_names, ignore_index)
    for method in ("of_image", "result"):
        if not callable(getattr(metric, method, None)):
            raise ConfigError(f"{_SETTING}: {path} returned a {type(metric).__name__}, which has no method {method}()")
    assert isinstance(metric, AdditiveMetric)
    return metric


class MetricSums:
    """The sums of several metrics over the images of one rank."""

    def __init__(self, metrics: Sequence[AdditiveMetric]) -> None:
        self._metrics = metrics
        self._sums: list[torch.Tensor | None] = [None] * len(metrics)

    def update(self, prediction: torch.Tensor, truth: torch.Tensor) -> None:
        """Adds one image; shapes as in `AdditiveMetric.of_image`."""
        for i, metric in enumerate(self._metrics):
            part = metric.of_image(prediction, truth).detach().cpu()
            part = part.double() if part.is_floating_point() else part.long()
            before = self._sums[i]
            self._sums[i] = part if before is None else before + part

    def reduce(self) -> dict[str, float]:
        """The numbers of all metrics over the images of all ranks; without images there are none. A collective."""
        numbers: dict[str, float] = {}
        for metric, own in zip(self._metrics, self._sums, strict=True):
            own_form = None if own is None else [len(own), own.is_floating_point()]
            forms = convert(gather_json(own_form), list[tuple[int, bool] | None], _SETTING)
            form = next((form for form in forms if form is not None), None)
            if form is None:
                continue
            length, is_float = form
            total = torch.zeros(length, dtype=torch.float64 if is_float else torch.int64) if own is None else own
            found = metric.result(sum_over_ranks(total))
            numbers.update({name: float(value) for name, value in found.items()})
        return numbers
