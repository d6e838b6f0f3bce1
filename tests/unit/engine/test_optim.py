import dataclasses

import pytest
import torch
from torch import nn

from dist_seg.config.schema import OptimConfig
from dist_seg.engine.optim import build_optimizer, load_optimizer_state, lr_factor, optimizer_state, set_learning_rate


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x))


def test_poly_schedule_has_its_analytic_values() -> None:
    config = OptimConfig(schedule="poly", poly_power=0.9, warmup_fraction=0.1)
    assert lr_factor(config, 10, 100) == 1.0
    assert lr_factor(config, 55, 100) == pytest.approx(0.5**0.9)
    assert lr_factor(config, 99, 100) == pytest.approx((1 / 90) ** 0.9)


def test_warm_up_rises_linearly_and_never_starts_at_zero() -> None:
    config = OptimConfig(warmup_fraction=0.1)
    assert [lr_factor(config, step, 100) for step in (0, 4, 9)] == pytest.approx([1 / 11, 5 / 11, 10 / 11])


def test_cosine_schedule_falls_to_the_least_rate() -> None:
    config = OptimConfig(schedule="cosine", warmup_fraction=0, min_lr_factor=0.1)
    assert lr_factor(config, 0, 100) == 1.0
    assert lr_factor(config, 50, 100) == pytest.approx(0.55)
    assert lr_factor(config, 100, 100) == pytest.approx(0.1)


def test_step_schedule_falls_at_its_milestones() -> None:
    config = OptimConfig(schedule="step", warmup_fraction=0, step_milestones=(0.5, 0.75), step_gamma=0.1)
    assert [lr_factor(config, step, 100) for step in (49, 50, 74, 75)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_norms_and_biases_are_not_decayed_and_the_encoder_learns_at_its_own_rate() -> None:
    net = Net()
    optimizer = build_optimizer(OptimConfig(lr=1.0, encoder_lr_factor=0.1, weight_decay=0.5), net)
    found = {
        id(parameter): (group["base_lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found[id(net.encoder[0].weight)] == (0.1, 0.5)
    assert found[id(net.encoder[0].bias)] == (0.1, 0.0)
    assert found[id(net.encoder[1].weight)] == (0.1, 0.0)
    assert found[id(net.head.weight)] == (1.0, 0.5)
    assert found[id(net.head.bias)] == (1.0, 0.0)
    assert len(found) == len(list(net.parameters()))


def test_set_learning_rate_keeps_the_ratio_of_the_groups() -> None:
    optimizer = build_optimizer(OptimConfig(lr=1.0, encoder_lr_factor=0.1), Net())
    set_learning_rate(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25, 0.025}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizer_goes_on_from_its_state_by_name_as_if_never_stopped(name: str) -> None:
    config = dataclasses.replace(OptimConfig(), name=name, lr=0.1)
    torch.manual_seed(0)
    batches = [torch.randn(2, 3, 8, 8) for _ in range(4)]

    def advance(net: Net, optimizer: torch.optim.Optimizer, chosen: list[torch.Tensor]) -> None:
        for batch in chosen:
            optimizer.zero_grad()
            net(batch).square().mean().backward()
            optimizer.step()

    whole = Net()
    resumed = Net()
    optimizer = build_optimizer(config, whole)
    advance(whole, optimizer, batches[:2])
    resumed.load_state_dict(whole.state_dict())
    second = build_optimizer(config, resumed)
    load_optimizer_state(second, resumed, {k: v.clone() for k, v in optimizer_state(optimizer, whole).items()})
    advance(whole, optimizer, batches[2:])
    advance(resumed, second, batches[2:])
    for key, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], tensor), key
