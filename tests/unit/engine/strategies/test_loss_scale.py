"""The loss scale moves as torch's GradScaler does."""

import torch

from dist_seg.engine.strategies.loss_scale import LossScale


def test_it_follows_torchs_grad_scaler() -> None:
    ours = LossScale.starting(dynamic=True)
    torchs = torch.amp.GradScaler("cpu", init_scale=ours.value)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    overflows = [*([True] * 3), *([False] * 2100), True, *([False] * 1999), True, *([False] * 2000)]
    for overflow in overflows:
        weight.grad = torch.full((1,), torch.inf if overflow else 1.0)
        torchs.scale(torch.zeros(1))
        torchs.step(optimizer)
        torchs.update()
        ours.update(skipped=overflow)
        assert ours.value == torchs.get_scale()
    assert ours.value == 2.0**13


def test_formats_that_need_none_keep_a_scale_of_one() -> None:
    scale = LossScale.starting(dynamic=False)
    scale.update(skipped=True)
    assert scale.value == 1.0
