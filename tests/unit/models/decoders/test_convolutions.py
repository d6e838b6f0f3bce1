import copy

import pytest
import torch
from torch import nn

from dist_seg.models.decoders.convolutions import (
    DilatedDepthwiseConv2d,
    is_dilated_depthwise,
    speed_up_dilated_depthwise,
)


def dilated(kernel: int = 3, dilation: int = 2) -> nn.Conv2d:
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(4, 4, kernel, padding=padding, dilation=dilation, groups=4, bias=False)
    return conv.double()


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2), (5, 2), (3, 12)])
def test_result_and_gradients_are_those_of_torch(kernel: int, dilation: int) -> None:
    reference = dilated(kernel, dilation)
    fast = DilatedDepthwiseConv2d(copy.deepcopy(reference))
    images = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    results = []
    for conv in (reference, fast):
        leaf = images.clone().requires_grad_()
        out = conv(leaf)
        out.square().sum().backward()
        results.append((out, leaf.grad, conv.weight.grad))
    for got, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, expected)


def test_result_and_gradients_under_autocast_are_those_of_torch() -> None:
    torch.manual_seed(0)
    reference = dilated().float()
    fast = DilatedDepthwiseConv2d(copy.deepcopy(reference))
    images = torch.randn(2, 4, 9, 11)
    results = []
    for conv in (reference, fast):
        leaf = images.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = conv(leaf)
        out.float().square().sum().backward()
        results.append((out, leaf.grad, conv.weight.grad))
    for got, expected in zip(results[1], results[0], strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)


def test_replaced_convolution_keeps_name_and_parameter() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), dilated())
    weight = net[1].weight
    names = list(net.state_dict())
    speed_up_dilated_depthwise(net)
    assert isinstance(net[1], DilatedDepthwiseConv2d)
    assert net[1].weight is weight
    assert list(net.state_dict()) == names


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=True),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False, stride=2),
        nn.Conv2d(4, 4, 3, padding=0, dilation=2, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False, padding_mode="reflect"),
    ],
)
def test_other_convolutions_are_left_alone(conv: nn.Conv2d) -> None:
    assert not is_dilated_depthwise(conv)
