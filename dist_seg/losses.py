"""Losses of a micro-batch as pure functions; ignored pixels take no part.

Every loss is a mean over the micro-batch's valid pixels (or classes). Without a valid pixel it is 0 with a graph, so
that the backward pass runs the same way on every rank.

Shapes: logits (N, C, H, W) float; targets (N, H, W) int64 class ids or the ignore index; class weights (C,) float. The
binary losses are of labels that may overlap, and say what theirs are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F

from dist_seg.config.schema import LossConfig
from dist_seg.errors import ConfigError
from dist_seg.runtime.dotted_path import import_function

LossFunction = Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]
CustomLoss = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]

_INVERSE_LOG_OFFSET = 1.02
"""Paszke et al. 2016 (ENet): weights 1 / ln(1.02 + p) lie between 1.4 and 50."""


def class_weights(kind: Literal["none", "inverse_log", "median_frequency"], class_pixels: Sequence[int]) -> list[float]:
    """A weight for every class from its pixels in the training split.

    inverse_log: 1 / ln(1.02 + p) with p the class's share of the pixels (Paszke et al. 2016). median_frequency:
    median(p) / p (Eigen and Fergus 2015, with the shares of the whole split). Scaled so that the mean over the split's
    pixels is 1; a class without a pixel gets weight 1. Raises ConfigError if no pixel is labelled.
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

    The weights are not divided by their sum over the micro-batch: the mean stays a mean, whatever the batch holds.
    label_smoothing spreads that share of the target evenly over all classes. With ohem_fraction below 1 the mean is
    over that share (rounded up) of the valid pixels whose weighted loss is largest.
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
    """1 - Dice, the mean over the classes that the micro-batch's targets hold.

    Dice of a class is 2 sum(p t) / (sum(p) + sum(t)) over the valid pixels of the whole micro-batch, with p the softmax
    probability and t the target, 0 or 1 (Milletari et al. 2016, without squares).
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
    present = truth > 0
    dice = 2 * intersection / (predicted + truth).where(present, 1.0)
    return (1 - dice).where(present, 0.0).sum() / present.sum().clamp_min(1)


def build_loss(cfg: LossConfig, num_classes: int, ignore_index: int, class_pixels: Sequence[int]) -> LossFunction:
    """The weighted sum of losses as a function of logits (N, C, H, W) and targets (N, H, W) int64.

    It returns `loss`, the sum to be minimised, and beside it every part before its weight. Half-precision logits are
    taken to float32. class_pixels: pixels of every class in the training split. Raises ConfigError.
    """
    _check(cfg, num_classes, class_pixels)
    weights = None if cfg.class_weights == "none" else torch.tensor(class_weights(cfg.class_weights, class_pixels))
    custom = None if cfg.custom is None else cast(CustomLoss, import_function(cfg.custom, "loss.custom"))

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = _in_single_precision(logits)
        parts = {}
        if cfg.cross_entropy:
            balance = None if weights is None else weights.to(logits)
            parts["cross_entropy"] = cross_entropy(
                logits, targets, ignore_index, balance, cfg.label_smoothing, cfg.ohem_fraction
            )
        if cfg.dice:
            parts["dice"] = dice_loss(logits, targets, ignore_index)
        if custom is not None:
            parts["custom"] = custom(logits, targets, ignore_index)
        return _weighted_sum(cfg, parts, logits)

    return loss


def binary_cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
    label_smoothing: float = 0.0,
    ohem_fraction: float = 1.0,
) -> torch.Tensor:
    """The mean of the binary cross-entropies over all valid (pixel, label) pairs of the micro-batch.

    targets: (N, K, H, W), 1 where a label is, 0 where it is not, or the ignore index. label_smoothing moves 0 and 1
    towards one half by half of it. With ohem_fraction below 1 the mean is over that share (rounded up) of the valid
    pairs whose loss is largest.
    """
    valid = targets != ignore_index
    wanted = (targets == 1).to(logits.dtype)
    if label_smoothing:
        wanted = wanted * (1 - label_smoothing) + label_smoothing / 2
    losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    if ohem_fraction >= 1.0:
        return (losses * valid).sum() / valid.sum().clamp_min(1)
    return _mean_of_hardest(losses, valid, ohem_fraction)


def binary_dice_loss(logits: torch.Tensor, targets: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """1 - Dice, the mean over the labels that the micro-batch's targets show.

    Dice of a label is as in `dice_loss`, with p the label's own sigmoid probability.
    """
    valid = targets != ignore_index
    truth = (targets == 1).to(logits.dtype)
    probabilities = logits.sigmoid() * valid
    over_pixels = (0, 2, 3)
    intersection, positive = (probabilities * truth).sum(dim=over_pixels), truth.sum(dim=over_pixels)
    present = positive > 0
    dice = 2 * intersection / (probabilities.sum(dim=over_pixels) + positive).where(present, 1.0)
    return (1 - dice).where(present, 0.0).sum() / present.sum().clamp_min(1)


def build_binary_loss(cfg: LossConfig, ignore_index: int) -> LossFunction:
    """As `build_loss`, of labels that may overlap: logits and targets are (N, K, H, W)."""
    _check_weights(cfg)
    if cfg.class_weights != "none":
        raise ConfigError(
            f"loss.class_weights={cfg.class_weights}: weighs classes that exclude each other, and these labels may "
            "overlap; loss.dice=1 makes up for rare ones"
        )
    custom = None if cfg.custom is None else cast(CustomLoss, import_function(cfg.custom, "loss.custom"))

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = _in_single_precision(logits)
        parts = {}
        if cfg.cross_entropy:
            parts["cross_entropy"] = binary_cross_entropy(
                logits, targets, ignore_index, cfg.label_smoothing, cfg.ohem_fraction
            )
        if cfg.dice:
            parts["dice"] = binary_dice_loss(logits, targets, ignore_index)
        if custom is not None:
            parts["custom"] = custom(logits, targets, ignore_index)
        return _weighted_sum(cfg, parts, logits)

    return loss


def _in_single_precision(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _weighted_sum(cfg: LossConfig, parts: dict[str, torch.Tensor], logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """`loss`, and beside it the parts before their weights."""
    weights = {"cross_entropy": cfg.cross_entropy, "dice": cfg.dice, "custom": 1.0}
    total = logits.new_zeros(())
    for name, part in parts.items():
        total = total + weights[name] * part
    return {"loss": total, **parts}


def _mean_of_hardest(losses: torch.Tensor, valid: torch.Tensor, fraction: float) -> torch.Tensor:
    hardest = losses.masked_fill(~valid, -1.0).flatten().sort(descending=True).values
    num_kept = torch.ceil(valid.sum() * fraction)
    kept = torch.arange(hardest.numel(), device=hardest.device) < num_kept
    return hardest.where(kept, 0.0).sum() / num_kept.clamp_min(1)


def _check(cfg: LossConfig, num_classes: int, class_pixels: Sequence[int]) -> None:
    _check_weights(cfg)
    assert len(class_pixels) == num_classes, f"{len(class_pixels)} pixel counts for {num_classes} classes"


def _check_weights(cfg: LossConfig) -> None:
    if cfg.cross_entropy < 0 or cfg.dice < 0:
        raise ConfigError(f"loss: negative weights (cross_entropy {cfg.cross_entropy}, dice {cfg.dice})")
    if not cfg.cross_entropy and not cfg.dice and cfg.custom is None:
        raise ConfigError("loss: nothing to minimise; give cross_entropy, dice or custom")
    if not 0.0 <= cfg.label_smoothing < 1.0:
        raise ConfigError(f"loss.label_smoothing: {cfg.label_smoothing} is not in [0, 1)")
    if not 0.0 < cfg.ohem_fraction <= 1.0:
        raise ConfigError(f"loss.ohem_fraction: {cfg.ohem_fraction} is not in (0, 1]")
