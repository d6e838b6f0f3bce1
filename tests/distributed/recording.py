"""A metric that keeps what it was given, for an independent count."""

from pathlib import Path

import numpy as np
import torch

from dist_seg.data.loading.batch import Batch
from dist_seg.tasks.task import Metric


class Recording:
    """Passes updates on to a metric and keeps what it was given."""

    def __init__(self, metric: Metric, folder: Path) -> None:
        self._metric, self._folder = metric, folder
        self.reduce = metric.reduce

    def update(self, prediction: torch.Tensor, batch: Batch) -> None:
        for i, key in enumerate(batch.keys):
            file = self._folder / f"{key}.npz"
            assert not file.exists(), f"{key} was scored twice"
            np.savez(file, prediction=prediction[i].numpy(), truth=batch.targets[i].numpy())
        self._metric.update(prediction, batch)
