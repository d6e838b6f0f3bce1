"""Losses for labels that may overlap, checked against torch's own on the valid pairs and at their limits."""

import math

import pytest
import torch
from torch.nn import functional as F

from dist_seg.config.schema import LossConfig
from dist_seg.errors import ConfigError
from dist_seg.losses import binary_cross_entropy, binary_dice_loss, build_binary_loss

IGNORE = 255


def random_case(ignored: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 3, 5, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 2, (2, 3, 5, 6), generator=generator).to(torch.uint8)
    targets[torch.rand(targets.shape, generator=generator) < ignored] = IGNORE
    return logits, targets


def test_cross_entropy_is_the_mean_over_the_valid_pairs() -> None:
    logits, targets = random_case()
    valid = targets != IGNORE
    expected = F.binary_cross_entropy_with_logits(logits[valid], targets[valid].double())
    torch.testing.assert_close(binary_cross_entropy(logits, targets, IGNORE), expected)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_is_that_of_two_classes(smoothing: float) -> None:
    logits, targets = random_case()
    two = torch.stack([torch.zeros_like(logits), logits], dim=1).flatten(2)
    classes = targets.long().flatten(1)
    expected = F.cross_entropy(two, classes, ignore_index=IGNORE, label_smoothing=smoothing)
    torch.testing.assert_close(binary_cross_entropy(logits, targets, IGNORE, smoothing), expected)


def test_hard_examples_are_the_largest_losses() -> None:
    logits, targets = random_case()
    valid = targets != IGNORE
    losses = F.binary_cross_entropy_with_logits(logits[valid], targets[valid].double(), reduction="none")
    kept = math.ceil(len(losses) * 0.3)
    expected = losses.sort(descending=True).values[:kept].mean()
    torch.testing.assert_close(binary_cross_entropy(logits, targets, IGNORE, ohem_fraction=0.3), expected)


def test_dice_is_the_mean_over_the_labels_that_are_there() -> None:
    logits, targets = random_case()
    targets[:, 1] = targets[:, 1].where(targets[:, 1] == IGNORE, torch.tensor(0, dtype=torch.uint8))
    parts = []
    for label in (0, 2):
        valid = targets[:, label] != IGNORE
        p, t = logits[:, label][valid].sigmoid(), targets[:, label][valid].double()
        parts.append(1 - 2 * (p * t).sum() / (p.sum() + t.sum()))
    torch.testing.assert_close(binary_dice_loss(logits, targets, IGNORE), torch.stack(parts).mean())


def test_labels_that_overlap_can_all_be_learnt() -> None:
    """A softmax could not be certain of both labels at one pixel."""
    targets = torch.ones(1, 2, 3, 3, dtype=torch.uint8)
    loss = build_binary_loss(LossConfig(dice=1.0), IGNORE)
    assert loss(torch.full((1, 2, 3, 3), 20.0), targets)["loss"].item() == pytest.approx(0.0, abs=1e-6)


def test_without_a_valid_pair_the_loss_is_zero_with_a_graph() -> None:
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    parts = build_binary_loss(LossConfig(dice=1.0, ohem_fraction=0.5), IGNORE)(
        logits, torch.full((1, 2, 3, 3), IGNORE, dtype=torch.uint8)
    )
    parts["loss"].backward()
    assert parts["loss"].item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_ignored_pairs_get_no_gradient() -> None:
    logits, targets = random_case()
    logits.requires_grad_()
    build_binary_loss(LossConfig(dice=0.5), IGNORE)(logits, targets)["loss"].backward()
    assert logits.grad is not None
    assert not logits.grad[targets == IGNORE].any()
    assert logits.grad[targets != IGNORE].abs().min() > 0


def test_the_sum_is_weighted() -> None:
    logits, targets = random_case()
    parts = build_binary_loss(LossConfig(cross_entropy=2.0, dice=0.5), IGNORE)(logits, targets)
    torch.testing.assert_close(parts["loss"], 2 * parts["cross_entropy"] + 0.5 * parts["dice"])


def test_class_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.class_weights=inverse_log.*may overlap"):
        build_binary_loss(LossConfig(class_weights="inverse_log"), IGNORE)
