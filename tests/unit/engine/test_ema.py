import pytest
import torch
from torch import nn

from dist_seg.engine.ema import ExponentialMovingAverage


def test_average_follows_the_formula() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 0.0)
    ema = ExponentialMovingAverage(net.state_dict(keep_vars=True), decay=0.5)
    expected = 0.0
    for step in range(1, 20):
        nn.init.constant_(net.weight, float(step))
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(ema.averages["weight"]) == pytest.approx(expected)


def test_swapping_in_and_out_restores_the_weights_to_the_bit() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    ema = ExponentialMovingAverage(net.state_dict(keep_vars=True), decay=0.9)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    live = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    averages = {key: tensor.clone() for key, tensor in ema.averages.items()}
    with ema.swapped_in():
        for key, tensor in averages.items():
            assert torch.equal(net.state_dict()[key], tensor), key
    for key, tensor in live.items():
        assert torch.equal(net.state_dict()[key], tensor), key
    for key, tensor in averages.items():
        assert torch.equal(ema.averages[key], tensor), key


def test_integer_buffers_are_not_averaged() -> None:
    ema = ExponentialMovingAverage(nn.BatchNorm1d(2).state_dict(keep_vars=True), decay=0.9)
    assert set(ema.averages) == {"weight", "bias", "running_mean", "running_var"}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight


def test_tied_weights_are_averaged_once_and_restored() -> None:
    net = Tied()
    ema = ExponentialMovingAverage(net.state_dict(keep_vars=True), decay=0.5)
    before = net.first.weight.detach().clone()
    with torch.no_grad():
        net.first.weight.add_(1.0)
    ema.update(100)
    with ema.swapped_in():
        torch.testing.assert_close(net.second.weight, before + 0.5)
        assert net.first.weight.data_ptr() == net.second.weight.data_ptr()
    torch.testing.assert_close(net.first.weight, before + 1.0)
    assert set(ema.averages) == {"first.weight", "second.weight"}
