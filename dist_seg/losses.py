"""Losses of a micro-batch, as pure functions. Ignored pixels take no part.

Every loss is a mean over the valid pixels (or the classes) of the micro-batch. Without a valid pixel a loss is 0 with a
graph, so that the backward pass runs the same way on every rank.

Shapes: logits (N, C, H, W) float; targets (N, H, W) int64 class ids or the ignore index; class weights (C,) float. For
labels that may overlap, of which there are K: logits (N, K, H, W) float; targets (N, K, H, W) uint8, 1 where a label is
present, 0 where it is absent, or the ignore index.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F

from dist_seg.config.schema import LossConfig
from dist_seg.errors import ConfigError
from dist_seg.runtime.dotted_path import import_function
from dist_seg.runtime.precision import at_least_float32

LossFunction = Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]
"""From logits and targets to scalars by name: `loss`, which is minimised, and its parts before their weights."""
_Part = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_INVERSE_LOG_OFFSET = 1.02
"""Paszke et al. 2016 (ENet): weights 1 / ln(1.02 + p) lie between 1.4 and 50."""


def build_loss(cfg: LossConfig, num_classes: int, ignore_index: int, class_pixels: Sequence[int]) -> LossFunction:
    """The weighted sum of losses for classes that exclude each other.

    Logits in half precision are converted to float32. class_pixels: pixels of every class in the training split. Raises
    ConfigError for settings that cannot be used.
    """
    _check(cfg)
    assert len(class_pixels) == num_classes, f"{len(class_pixels)} pixel counts for {num_classes} classes"
    weights = None if cfg.class_weights == "none" else torch.tensor(class_weights(cfg.class_weights, class_pixels))

    def entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        balance = None if weights is None else weights.to(logits)
        return cross_entropy(logits, targets, ignore_index, balance, cfg.label_smoothing, cfg.ohem_fraction)

    return _weighted_sum(cfg, entropy, partial(dice_loss, ignore_index=ignore_index), ignore_index)


def build_binary_loss(cfg: LossConfig, ignore_index: int) -> LossFunction:
    """The weighted sum of losses for labels that may overlap; otherwise as `build_loss`."""
    _check(cfg)
    if cfg.class_weights != "none":
        raise ConfigError(
            f"loss.class_weights={cfg.class_weights}: weighs classes that exclude each other, and these labels may "
            "overlap; loss.dice=1 makes up for rare ones"
        )

    def entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return binary_cross_entropy(logits, targets, ignore_index, cfg.label_smoothing, cfg.ohem_fraction)

    return _weighted_sum(cfg, entropy, partial(binary_dice_loss, ignore_index=ignore_index), ignore_index)


def class_weights(kind: Literal["none", "inverse_log", "median_frequency"], class_pixels: Sequence[int]) -> list[float]:
    """A weight for every class in the loss, from its pixels in the training split.

    inverse_log: 1 / ln(1.02 + p), where p is the class's share of the pixels (Paszke et al. 2016). median_frequency:
    median(p) / p (Eigen and Fergus 2015, with the shares of the whole split). The weights are scaled so that their mean
    over the split's pixels is 1; a class without a pixel gets weight 1. Raises ConfigError if no pixel is labelled.
    """
    total = sum(class_pixels)
    if kind == "none":
        return [1.0] * len(class_pixels)
    if total == 0:
        raise ConfigError(f"loss.class_weights: {kind} needs labelled pixels, and the training split has none")
    shares = [pixels / total for pixels in class_pixels]
    present = sorted(share for share in shares if share > 0)
    median = (present[(len(present) - 1) // 2] + present[len(present) // 2]) / 2

    def raw(share: float) -> float:
        return 1 / math.log(_INVERSE_LOG_OFFSET + share) if kind == "inverse_log" else median / share

    mean = sum(share * raw(share) for share in present)
    return [raw(share) / mean if share > 0 else 1.0 for share in shares]


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
    weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    ohem_fraction: float = 1.0,
) -> torch.Tensor:
    """The mean over the valid pixels of weight[target] times the cross-entropy.

    The weights are not divided by their sum over the micro-batch, so the scale does not depend on its classes.
    label_smoothing spreads that share of the target evenly over all classes (Szegedy et al. 2016). With ohem_fraction
    below 1 the mean is over that share (rounded up) of the valid pixels, those with the largest weighted loss (online
    hard example mining, Shrivastava et al. 2016).
    """
    losses = F.cross_entropy(
        logits, targets, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="none"
    )
    valid = targets != ignore_index
    if weights is not None:
        losses = losses * weights[targets.masked_fill(~valid, 0)]
    if ohem_fraction >= 1.0:
        # F.cross_entropy gives 0 where the target is ignored.
        return losses.sum() / valid.sum().clamp_min(1)
    return _mean_of_hardest(losses, valid, ohem_fraction)


def dice_loss(logits: torch.Tensor, targets: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """The mean of 1 - Dice over the classes in the micro-batch's targets.

    The Dice of a class is 2 sum(p t) / (sum(p) + sum(t)) over the valid pixels of the whole micro-batch, where p is the
    softmax probability and t the target, 0 or 1 (Milletari et al. 2016, without squares).
    """
    num_classes = logits.shape[1]
    valid = targets != ignore_index
    probabilities = logits.softmax(dim=1) * valid.unsqueeze(1)
    classes = targets.masked_fill(~valid, 0)
    hits = probabilities.gather(1, classes.unsqueeze(1)).squeeze(1)
    zeros = logits.new_zeros(num_classes)
    intersection = zeros.index_add(0, classes.flatten(), hits.flatten())
    truth = zeros.index_add(0, classes.flatten(), valid.flatten().to(logits.dtype))
    predicted = probabilities.sum(dim=(0, 2, 3))
    return _mean_dice_loss(intersection, predicted, truth)


def binary_cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
    label_smoothing: float = 0.0,
    ohem_fraction: float = 1.0,
) -> torch.Tensor:
    """The mean binary cross-entropy over all valid (pixel, label) pairs of the micro-batch.

    label_smoothing: the targets become label_smoothing / 2 and 1 - label_smoothing / 2. With ohem_fraction below 1 the
    mean is over that share (rounded up) of the valid pairs, those with the largest loss.
    """
    valid = targets != ignore_index
    truth = (targets == 1).to(logits.dtype)
    if label_smoothing:
        truth = truth * (1 - label_smoothing) + label_smoothing / 2
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    if ohem_fraction >= 1.0:
        return (losses * valid).sum() / valid.sum().clamp_min(1)
    return _mean_of_hardest(losses, valid, ohem_fraction)


def binary_dice_loss(logits: torch.Tensor, targets: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """The mean of 1 - Dice over the labels in the micro-batch's targets.

    The Dice of a label is that of `dice_loss`, where p is the label's own sigmoid probability.
    """
    valid = targets != ignore_index
    truth = (targets == 1).to(logits.dtype)
    probabilities = logits.sigmoid() * valid
    over_pixels = (0, 2, 3)
    intersection = (probabilities * truth).sum(dim=over_pixels)
    return _mean_dice_loss(intersection, probabilities.sum(dim=over_pixels), truth.sum(dim=over_pixels))


def _mean_dice_loss(intersection: torch.Tensor, predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The mean of 1 - Dice over the classes with truth; all (C,), sums over pixels."""
    present = truth > 0
    dice = 2 * intersection / (predicted + truth).where(present, 1.0)
    return (1 - dice).where(present, 0.0).sum() / present.sum().clamp_min(1)


def _mean_of_hardest(losses: torch.Tensor, valid: torch.Tensor, fraction: float) -> torch.Tensor:
    """The mean of the largest losses: `fraction` of the valid ones, rounded up. The sizes do not depend on the data."""
    hardest = losses.masked_fill(~valid, -1.0).flatten().sort(descending=True).values
    num_kept = torch.ceil(valid.sum() * fraction)
    kept = torch.arange(hardest.numel(), device=hardest.device) < num_kept
    return hardest.where(kept, 0.0).sum() / num_kept.clamp_min(1)


def _weighted_sum(cfg: LossConfig, cross_entropy: _Part, dice: _Part, ignore_index: int) -> LossFunction:
    parts: dict[str, tuple[float, _Part]] = {}
    if cfg.cross_entropy:
        parts["cross_entropy"] = (cfg.cross_entropy, cross_entropy)
    if cfg.dice:
        parts["dice"] = (cfg.dice, dice)
    if cfg.custom is not None:
        parts["custom"] = (1.0, _custom_loss(cfg.custom, ignore_index))

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = at_least_float32(logits)
        values = {name: part(logits, targets) for name, (_, part) in parts.items()}
        total = logits.new_zeros(())
        for name, (weight, _) in parts.items():
            total = total + weight * values[name]
        return {"loss": total, **values}

    return loss


def _custom_loss(path: str, ignore_index: int) -> _Part:
    """The user's own function of logits, targets and ignore index."""
    function = import_function(path, "loss.custom")

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value = function(logits, targets, ignore_index)
        if not isinstance(value, torch.Tensor):
            raise ConfigError(f"loss.custom: {path} returned a {type(value).__name__}, not a torch.Tensor")
        return value

    return loss


def _check(cfg: LossConfig) -> None:
    if cfg.cross_entropy < 0 or cfg.dice < 0:
        raise ConfigError(f"loss: negative weights (cross_entropy {cfg.cross_entropy}, dice {cfg.dice})")
    if not cfg.cross_entropy and not cfg.dice and cfg.custom is None:
        raise ConfigError("loss: nothing to minimise; give cross_entropy, dice or custom")
    if not 0.0 <= cfg.label_smoothing < 1.0:
        raise ConfigError(f"loss.label_smoothing: {cfg.label_smoothing} is not in [0, 1)")
    if not 0.0 < cfg.ohem_fraction <= 1.0:
        raise ConfigError(f"loss.ohem_fraction: {cfg.ohem_fraction} is not in (0, 1]")
