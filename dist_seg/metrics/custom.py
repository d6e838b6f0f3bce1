"""Metrics of the user's own, exact at any number of ranks because all they keep is a sum."""

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
    """What the function at a dotted path of `eval.metrics` returns."""

    def of_image(self, prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """One image's contribution, a 1-D tensor of a fixed length; integers are summed exactly.

        prediction, truth: (H, W) int64 class ids of the image's own size; the truth has the ignore index.
        """
        ...

    def result(self, total: torch.Tensor) -> Mapping[str, float]:
        """Numbers by name, from the sum over all images, in double precision or int64."""
        ...


def build_metrics(paths: Sequence[str], class_names: tuple[str, ...], ignore_index: int) -> list[AdditiveMetric]:
    """Calls the function at each dotted path with class names and ignore index. Raises ConfigError that names it."""
    return [_build(path, class_names, ignore_index) for path in paths]


def _build(path: str, class_names: tuple[str, ...], ignore_index: int) -> AdditiveMetric:
    metric = import_function(path, _SETTING)(class_names, ignore_index)
    if isinstance(metric, AdditiveMetric):
        return metric
    missing = next(name for name in ("of_image", "result") if not hasattr(metric, name))
    raise ConfigError(f"{_SETTING}: {path} returned a {type(metric).__name__}, which has no method {missing}()")


class MetricSums:
    """The sums of several metrics over the images of a rank."""

    def __init__(self, metrics: Sequence[AdditiveMetric]) -> None:
        self._metrics = metrics
        self._sums: list[torch.Tensor | None] = [None] * len(metrics)

    def update(self, prediction: torch.Tensor, truth: torch.Tensor) -> None:
        """As `AdditiveMetric.of_image`."""
        for i, metric in enumerate(self._metrics):
            part = metric.of_image(prediction, truth).detach().cpu()
            part = part.double() if part.is_floating_point() else part.long()
            before = self._sums[i]
            self._sums[i] = part if before is None else before + part

    def reduce(self) -> dict[str, float]:
        """All metrics' numbers over the images of all ranks. A collective; a metric without any image has none."""
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
