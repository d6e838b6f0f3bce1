"""Exponential moving average of a model's weights and running statistics."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class ExponentialMovingAverage:
    """An average of every floating-point tensor of the model's state, moved once a step.

    The decay rises as (1 + t) / (10 + t) up to `decay` (as in TensorFlow's ExponentialMovingAverage), so that the
    random start is soon forgotten.
    """

    def __init__(self, live: Mapping[str, torch.Tensor], decay: float) -> None:
        """live: the state that is averaged, by name (`Strategy.held`); the very tensors that training changes."""
        self._decay = decay
        # A tensor that is known by several names (tied weights) is averaged once, under the first of them.
        by_tensor: dict[int, tuple[str, torch.Tensor]] = {}
        self._first_name: dict[str, str] = {}
        for name, tensor in live.items():
            if tensor.is_floating_point():
                self._first_name[name] = by_tensor.setdefault(id(tensor), (name, tensor))[0]
        self._live = dict(by_tensor.values())
        self._averages = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @property
    def averages(self) -> dict[str, torch.Tensor]:
        """This rank's parts of them, by the names of the model's state."""
        return {name: self._averages[first] for name, first in self._first_name.items()}

    @torch.no_grad()
    def update(self, steps_done: int) -> None:
        """Moves the average after optimiser step number `steps_done`, counted from 1."""
        decay = min(self._decay, (1 + steps_done) / (10 + steps_done))
        torch._foreach_lerp_(
            list(self._averages.values()), [tensor.detach() for tensor in self._live.values()], 1 - decay
        )

    @torch.no_grad()
    def load(self, averages: Mapping[str, torch.Tensor]) -> None:
        """Takes up parts of averages by name."""
        for name, tensor in self._averages.items():
            tensor.copy_(averages[name])

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model with the averages as its weights while the context lasts; nothing is copied."""
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
    """The model itself, while the context lasts with the averages as its weights, if there are any."""
    if ema is None:
        yield model
        return
    with ema.swapped_in():
        yield model
