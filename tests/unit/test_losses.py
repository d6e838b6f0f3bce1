import math

import pytest
import torch
from torch.nn import functional as F

from dist_seg.config.schema import LossConfig
from dist_seg.errors import ConfigError
from dist_seg.losses import build_loss, class_weights, cross_entropy, dice_loss

IGNORE = 255
ALL_KINDS = LossConfig(dice=1.0, class_weights="inverse_log", label_smoothing=0.1, ohem_fraction=0.5)


def random_case(seed: int = 0, ignored: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 4, (2, 5, 6), generator=generator)
    targets[torch.rand(2, 5, 6, generator=generator) < ignored] = IGNORE
    return logits, targets


def test_equal_logits_cost_the_log_of_the_number_of_classes() -> None:
    loss = cross_entropy(torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 1], [2, IGNORE]]]), IGNORE)
    assert loss.item() == pytest.approx(math.log(4))


def test_mean_is_over_valid_pixels() -> None:
    logits, targets = random_case()
    expected = F.cross_entropy(logits, targets, ignore_index=IGNORE)
    torch.testing.assert_close(cross_entropy(logits, targets, IGNORE), expected)


def test_weights_multiply_without_renormalising() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    loss = cross_entropy(logits, torch.tensor([[[0, 1]]]), IGNORE, torch.tensor([3.0, 1.0]))
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_label_smoothing_spreads_over_all_classes() -> None:
    logits = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)
    log_p = logits.log_softmax(1).flatten()
    loss = cross_entropy(logits, torch.tensor([[[0]]]), IGNORE, label_smoothing=0.2)
    assert loss.item() == pytest.approx(-(0.9 * log_p[0] + 0.1 * log_p[1]).item())


@pytest.mark.parametrize(("fraction", "kept"), [(0.25, [3.0]), (0.5, [3.0, 2.0]), (0.6, [3.0, 2.0, 1.0])])
def test_ohem_averages_the_hardest_valid_pixels_rounded_up(fraction: float, kept: list[float]) -> None:
    costs = torch.tensor([1.0, 3.0, 0.5, 2.0, 9.0])
    logits = torch.stack([torch.zeros(5), torch.log(torch.expm1(costs))]).view(1, 2, 1, 5)
    targets = torch.tensor([[[0, 0, 0, 0, IGNORE]]])
    loss = cross_entropy(logits, targets, IGNORE, ohem_fraction=fraction)
    assert loss.item() == pytest.approx(sum(kept) / len(kept), rel=1e-5)


def test_dice_of_a_perfect_prediction_is_0() -> None:
    targets = torch.tensor([[[0, 1], [1, IGNORE]]])
    logits = 200.0 * F.one_hot(targets.clamp_max(1), 2).permute(0, 3, 1, 2).float()
    assert dice_loss(logits, targets, IGNORE).item() == pytest.approx(0.0, abs=1e-6)


def test_dice_of_even_odds() -> None:
    # One class in truth over 4 valid pixels at p = 0.5: dice = 2 * 2 / (2 + 4).
    loss = dice_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), IGNORE)
    assert loss.item() == pytest.approx(1 - 2 / 3)


def test_dice_matches_one_hot_arithmetic() -> None:
    logits, targets = random_case()
    valid = (targets != IGNORE).unsqueeze(1)
    truth = F.one_hot(targets.where(targets != IGNORE, 0), 4).permute(0, 3, 1, 2) * valid
    p = logits.softmax(1) * valid
    dice = 2 * (p * truth).sum((0, 2, 3)) / (p.sum((0, 2, 3)) + truth.sum((0, 2, 3)))
    torch.testing.assert_close(dice_loss(logits, targets, IGNORE), (1 - dice).mean())


def test_dice_leaves_out_classes_without_truth() -> None:
    logits = torch.tensor([0.0, 0.0, -50.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    loss = dice_loss(logits, torch.tensor([[[0, 1]]]), IGNORE)
    assert loss.item() == pytest.approx(0.5)


@pytest.mark.parametrize("cfg", [LossConfig(), ALL_KINDS, LossConfig(cross_entropy=0.0, dice=1.0)])
def test_ignored_pixels_have_no_gradient(cfg: LossConfig) -> None:
    logits, targets = random_case()
    logits.requires_grad_()
    build_loss(cfg, 4, IGNORE, [9, 5, 3, 1])(logits, targets)["loss"].backward()
    assert logits.grad is not None
    assert not logits.grad.permute(0, 2, 3, 1)[targets == IGNORE].any()


@pytest.mark.parametrize("cfg", [LossConfig(), ALL_KINDS, LossConfig(ohem_fraction=0.1), LossConfig(dice=2.0)])
def test_no_valid_pixel_gives_0_with_a_graph(cfg: LossConfig) -> None:
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    parts = build_loss(cfg, 4, IGNORE, [9, 5, 3, 1])(logits, torch.full((2, 3, 3), IGNORE))
    parts["loss"].backward()
    assert {name: part.item() for name, part in parts.items()} == dict.fromkeys(parts, 0.0)
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("magnitude", [1e4, 1e30])
def test_extreme_logits_stay_finite(magnitude: float) -> None:
    logits = magnitude * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1).requires_grad_()
    loss = build_loss(LossConfig(dice=1.0), 2, IGNORE, [1, 1])(logits, torch.tensor([[[1]]]))["loss"]
    assert torch.isfinite(loss)


def test_gradients_are_those_of_finite_differences() -> None:
    logits, targets = random_case()
    loss = build_loss(ALL_KINDS, 4, IGNORE, [9, 5, 3, 1])
    assert torch.autograd.gradcheck(lambda x: loss(x, targets)["loss"], logits.requires_grad_())


def test_sum_of_the_parts_is_weighted() -> None:
    logits, targets = random_case()
    parts = build_loss(LossConfig(cross_entropy=0.5, dice=3.0), 4, IGNORE, [1] * 4)(logits, targets)
    torch.testing.assert_close(parts["loss"], 0.5 * parts["cross_entropy"] + 3.0 * parts["dice"])


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, targets = random_case()
    assert build_loss(LossConfig(), 4, IGNORE, [1] * 4)(logits.bfloat16(), targets)["loss"].dtype == torch.float32


def test_inverse_log_weights() -> None:
    raw = [1 / math.log(1.02 + 0.9), 1 / math.log(1.02 + 0.1)]
    mean = 0.9 * raw[0] + 0.1 * raw[1]
    assert class_weights("inverse_log", [90, 10]) == pytest.approx([raw[0] / mean, raw[1] / mean])


def test_median_frequency_weights_are_inverse_to_the_share() -> None:
    # median(p) / p is 0.3 / p; every present class then contributes 0.3 to the mean, 3 * 0.3 = 0.9 in all.
    weights = class_weights("median_frequency", [60, 30, 10, 0])
    assert weights == pytest.approx([0.5 / 0.9, 1 / 0.9, 3 / 0.9, 1.0])


@pytest.mark.parametrize("kind", ["inverse_log", "median_frequency"])
def test_class_weights_without_labelled_pixels_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="the training split has none"):
        build_loss(LossConfig(class_weights=kind), 2, IGNORE, [0, 0])  # type: ignore[arg-type]  # a parameter of the test


def squared(logits: torch.Tensor, targets: torch.Tensor, ignore_index: int) -> torch.Tensor:
    return logits.square().sum() * (targets != ignore_index).sum()


def test_custom_loss_is_added_with_weight_1() -> None:
    logits, targets = random_case()
    parts = build_loss(LossConfig(custom=f"{__name__}:squared"), 4, IGNORE, [1] * 4)(logits, targets)
    torch.testing.assert_close(parts["loss"], parts["cross_entropy"] + squared(logits, targets, IGNORE))


def a_number(logits: torch.Tensor, targets: torch.Tensor, ignore_index: int) -> float:
    return 1.0


def test_a_custom_loss_that_is_no_tensor_is_refused() -> None:
    loss = build_loss(LossConfig(custom=f"{__name__}:a_number"), 4, IGNORE, [1] * 4)
    with pytest.raises(ConfigError, match=r"loss\.custom: .*a_number returned a float, not a torch\.Tensor"):
        loss(*random_case())


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (LossConfig(cross_entropy=0.0), "nothing to minimise"),
        (LossConfig(dice=-1.0), "negative weights"),
        (LossConfig(ohem_fraction=0.0), r"ohem_fraction: 0.0 is not in \(0, 1\]"),
        (LossConfig(label_smoothing=1.0), r"label_smoothing: 1.0 is not in \[0, 1\)"),
        (LossConfig(custom="no_such_module:loss"), "cannot import no_such_module"),
        (LossConfig(custom="math:pi"), "math:pi is a float"),
    ],
)
def test_what_cannot_be_minimised_is_refused(cfg: LossConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_loss(cfg, 2, IGNORE, [1, 1])
