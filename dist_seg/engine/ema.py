"""Exponential moving average of a model's weights and running statistics."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class ExponentialMovingAverage:
    """An average of every floating-point tensor of the model's state, updated once per step.

    The decay rises as (1 + t) / (10 + t) up to `decay`, as in TensorFlow's ExponentialMovingAverage, so that the random
    initialisation is soon forgotten.
    """

    def __init__(self, live: Mapping[str, torch.Tensor], decay: float) -> None:
        """live: the tensors to average, by name (`Strategy.held`). Training changes these same tensors."""
        self._decay = decay
        # A tensor with several names (tied weights) is averaged once, under its first name.
        by_tensor: dict[int, tuple[str, torch.Tensor]] = {}
        self._first_name: dict[str, str] = {}
        for name, tensor in live.items():
            if tensor.is_floating_point():
                self._first_name[name] = by_tensor.setdefault(id(tensor), (name, tensor))[0]
        self._live = dict(by_tensor.values())
        self._averages = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @property
    def averages(self) -> dict[str, torch.Tensor]:
        """This rank's parts of the averages, by the names of the model's state."""
        return {name: self._averages[first] for name, first in self._first_name.items()}

    @torch.no_grad()
    def update(self, steps_done: int) -> None:
        """Updates the averages after optimiser step `steps_done`, counted from 1."""
        decay = min(self._decay, (1 + steps_done) / (10 + steps_done))
        torch._foreach_lerp_(
            list(self._averages.values()), [tensor.detach() for tensor in self._live.values()], 1 - decay
        )

    @torch.no_grad()
    def load(self, averages: Mapping[str, torch.Tensor]) -> None:
        """Loads this rank's parts of averages, by name."""
        for name, tensor in self._averages.items():
            tensor.copy_(averages[name])

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside the context, the model has the averages as its weights. Nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, tensor in self._live.items():
            tensor.data, self._averages[name] = self._averages[name], tensor.data


@contextmanager
def averaged(model: nn.Module, ema: ExponentialMovingAverage | None) -> Iterator[nn.Module]:
    """The model; inside the context it has the averages as its weights, if there are any."""
    if ema is None:
        yield model
        return
    with ema.swapped_in():
        yield model
