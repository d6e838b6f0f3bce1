"""What the training loop asks of the machinery that spreads a model over ranks."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from dist_seg.tasks.task import ModelOutput


class Strategy(Protocol):
    """DDP is one, DeepSpeed another; one loop serves both."""

    module: nn.Module
    """The model itself, unwrapped: for evaluation, statistics and names."""

    def forward(self, *inputs: object, last: bool) -> ModelOutput:
        """The model's output for a micro-batch; `last` tells that it is this rank's last one of the step."""
        ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Adds the gradient of `loss / lanes`; the sum over all ranks is formed on the last micro-batch."""
        ...

    def step(self, lr_factor: float, loss: torch.Tensor) -> tuple[float, bool]:
        """Clips and applies the gradient, unless its norm or `loss` is not finite: then all ranks leave the step out.

        `loss` is the step's mean, the same scalar on every rank. Returns the gradient's norm before clipping, and
        whether the step was skipped.
        """
        ...

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        """The optimiser's moments as whole tensors by `PARAMETER/MOMENT`."""
        ...

    def load_optimizer_state(self, state: Mapping[str, torch.Tensor]) -> None: ...
