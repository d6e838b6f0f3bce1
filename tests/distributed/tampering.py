"""Micro-batches that are changed, or go wrong, at a chosen place of a training."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from unittest import mock

import torch

from dist_seg.config.schema import Config
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.loader import train_batches
from dist_seg.data.plan.plan import TrainPlan
from dist_seg.data.view.data_view import DataView


@contextmanager
def changed_batches(change: Callable[[int, int, Batch], Batch]) -> Iterator[None]:
    """Trainings of this rank inside it get what `change` makes of (steps done before, lane, micro-batch)."""

    def changed(
        config: Config, view: DataView, plan: TrainPlan, units: Iterable[tuple[int, int]], device: torch.device
    ) -> Generator[Batch, None, None]:
        listed = list(units)
        with closing(train_batches(config, view, plan, listed, device)) as batches:
            for (step, lane), batch in zip(listed, batches, strict=True):
                yield change(step, lane, batch)

    with mock.patch("dist_seg.engine.run.train_batches", changed):
        yield
