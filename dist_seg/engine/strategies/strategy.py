"""The interface between the training loop and the engine that spreads a model over ranks."""

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
    """An engine: DDP or DeepSpeed. The same loop runs both.

    A rank holds a part of every tensor of the model's state: the whole tensor, or a shard of each weight under ZeRO-3.
    """

    module: nn.Module
    """The unwrapped model, for statistics and names. Its weights may be sharded."""
    loss_scale: LossScale
    rounds: int
    """Micro-batches that every rank must run in a step. Ranks with fewer lanes first run blank ones of weight 0."""

    def forward(self, *inputs: object, last: bool) -> ModelOutput:
        """The model's output for a micro-batch. last: it is this rank's last micro-batch of the step."""
        ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Adds the gradient of `loss / lanes`. The last micro-batch sums it over all ranks."""
        ...

    def step(self, lr_factor: float, loss: torch.Tensor) -> tuple[float, bool]:
        """Clips and applies the gradient. If its norm or `loss` is not finite, all ranks skip the step.

        loss: the mean of the step, a scalar, the same on every rank. Returns the norm of the gradient before clipping
        and whether the step was skipped.
        """
        ...

    def held(self) -> dict[str, torch.Tensor]:
        """This rank's parts of the model's state, by name. Training changes these same tensors."""
        ...

    def whole(self, parts: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """The whole tensors that the ranks hold `parts` of, one after the other. A collective."""
        ...

    def part(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """This rank's part of a whole tensor of the model's state."""
        ...

    def evaluated(self, ema: ExponentialMovingAverage | None) -> AbstractContextManager[nn.Module]:
        """A model to evaluate, with the averages if there are any, else the weights.

        Ranks may call it different numbers of times. Entering the context is a collective.
        """
        ...

    def optimizer_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The optimiser's moments as whole tensors, by `PARAMETER/MOMENT`, one after the other. A collective."""
        ...

    def load_optimizer_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Loads moments from `optimizer_state`. Raises KeyError for a parameter that the model lacks."""
        ...


def check_all_used(model: nn.Module) -> None:
    """Raises ConfigError for trained parameters without a gradient after a backward pass."""
    unused = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    if unused:
        raise ConfigError(
            f"{type(model).__name__}: the loss does not depend on {', '.join(unused[:5])}"
            f"{f' and {len(unused) - 5} more parameters' if len(unused) > 5 else ''}, so ranks would wait for its "
            "gradient forever; remove it from the model, or set requires_grad to False"
        )
