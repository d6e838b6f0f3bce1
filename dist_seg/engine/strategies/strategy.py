"""What the training loop asks of the machinery that spreads a model over ranks."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import nn

from dist_seg.engine.ema import ExponentialMovingAverage
from dist_seg.engine.strategies.loss_scale import LossScale
from dist_seg.errors import ConfigError
from dist_seg.tasks.task import ModelOutput


class Strategy(Protocol):
    """DDP is one, DeepSpeed another; one loop serves both.

    A rank holds a part of every tensor of the model's state: the whole tensor, or under ZeRO-3 a shard of each weight.
    """

    module: nn.Module
    """The model itself, unwrapped: for statistics and names. Its weights may be sharded."""
    loss_scale: LossScale
    rounds: int
    """Micro-batches that every rank must run in a step: one with fewer lanes runs blank ones before, of weight 0."""

    def forward(self, *inputs: object, last: bool) -> ModelOutput:
        """The model's output for a micro-batch; `last` tells that it is this rank's last one of the step."""
        ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Adds the gradient of `loss / lanes`; the sum over all ranks is formed by the last micro-batch."""
        ...

    def step(self, lr_factor: float, loss: torch.Tensor) -> tuple[float, bool]:
        """Clips and applies the gradient, unless its norm or `loss` is not finite: then all ranks leave the step out.

        `loss` is the step's mean, the same scalar on every rank. Returns the gradient's norm before clipping, and
        whether the step was skipped.
        """
        ...

    def held(self) -> dict[str, torch.Tensor]:
        """This rank's parts of the model's state, by name: the tensors themselves, which training goes on to change."""
        ...

    def whole(self, parts: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """The whole tensors of which the ranks have `parts`, one after the other. A collective."""
        ...

    def part(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """This rank's part of a whole tensor of the model's state."""
        ...

    def evaluated(self, ema: ExponentialMovingAverage | None) -> AbstractContextManager[nn.Module]:
        """A model to evaluate, of the averages or else the weights, that ranks may call as often as each likes.

        A collective at its beginning.
        """
        ...

    def optimizer_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The optimiser's moments as whole tensors by `PARAMETER/MOMENT`, one after the other. A collective."""
        ...

    def load_optimizer_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes moments up that `optimizer_state` gave. Raises KeyError for a parameter that the model lacks."""
        ...


def check_all_used(model: nn.Module) -> None:
    """Raises ConfigError for trained parameters that a backward pass has given no gradient."""
    unused = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    if unused:
        raise ConfigError(
            f"{type(model).__name__}: the loss does not depend on {', '.join(unused[:5])}"
            f"{f' and {len(unused) - 5} more parameters' if len(unused) > 5 else ''}, so ranks would wait for its "
            "gradient for ever; leave it out of the model, or set requires_grad to False"
        )
