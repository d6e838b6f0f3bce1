"""The warm-up finds what would make ranks wait for each other for ever, on one rank already."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dist_seg.distributed.world import World
from dist_seg.engine.strategies.ddp import DdpStrategy
from dist_seg.errors import ConfigError


class WithAuxiliaryHead(nn.Module):
    """`auxiliary` takes no part in the output."""

    def __init__(self, *, trained: bool) -> None:
        super().__init__()
        self.main, self.auxiliary = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
        self.auxiliary.requires_grad_(trained)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.main(images)


def warm_up(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    strategy = DdpStrategy(model, optimizer, world=World(), lanes=1, clip_norm=0.0, compile=False)

    def loss_of(forward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return forward(torch.ones(1, 3, 4, 4)).mean()

    strategy.warm_up(loss_of)


def test_trained_parameters_that_the_loss_does_not_depend_on_are_named() -> None:
    with pytest.raises(ConfigError, match=r"WithAuxiliaryHead.*auxiliary\.weight, auxiliary\.bias"):
        warm_up(WithAuxiliaryHead(trained=True))


def test_parameters_that_are_not_trained_may_be_unused() -> None:
    warm_up(WithAuxiliaryHead(trained=False))


def test_the_warm_up_leaves_weights_and_gradients_as_they_were() -> None:
    model = WithAuxiliaryHead(trained=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    warm_up(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
