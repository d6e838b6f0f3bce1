"""The four kinds of normalisation that a network can have.

batch: BatchNorm. sync: SyncBatchNorm (GPU only). group: GroupNorm (Wu and He 2018), which does not depend on the batch
and keeps no statistics. frozen: BatchNorm that always applies its running statistics and never changes them; its weight
and bias are trained. All but group are `_BatchNorm` modules, which is how the engine finds their running statistics.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_seg.errors import ConfigError

NormKind = Literal["batch", "sync", "group", "frozen"]

_MAX_GROUPS = 32
_MIN_GROUP_CHANNELS = 8


def resolve_norm(
    kind: Literal["auto"] | NormKind,
    task: Literal["auto", "semantic", "multilabel", "instance"],
    weights: str | None,
) -> NormKind:
    """The kind to use; `auto` is batch, and for instances frozen with pretrained weights and group without."""
    if kind != "auto":
        return kind
    if task != "instance":
        return "batch"
    return "group" if weights is None else "frozen"


def check_norm(kind: NormKind) -> None:
    """Raises ConfigError if this machine cannot run the kind."""
    if kind == "sync" and not torch.cuda.is_available():
        raise ConfigError(
            "model.norm: sync needs a GPU (SyncBatchNorm has no CPU kernel) and this process sees none; "
            "choose batch, group or frozen"
        )


def num_groups(channels: int) -> int:
    """The largest number of groups, up to 32, that divides `channels` into groups of at least 8; 1 if none does."""
    candidates = (g for g in range(_MAX_GROUPS, 1, -1) if channels % g == 0 and channels // g >= _MIN_GROUP_CHANNELS)
    return next(candidates, 1)


def make_norm(kind: NormKind, channels: int) -> nn.Module:
    """A normalisation layer for feature maps (B, channels, H, W)."""
    match kind:
        case "batch" | "frozen":
            return nn.BatchNorm2d(channels)
        case "sync":
            return nn.SyncBatchNorm(channels)
        case "group":
            return nn.GroupNorm(num_groups(channels), channels)


def batch_norms(module: nn.Module) -> Iterator[_BatchNorm]:
    """Every batch normalisation inside `module`, timm's as well as torch's."""
    return (child for child in module.modules() if isinstance(child, _BatchNorm))


class _GroupNormAct(nn.GroupNorm):
    """GroupNorm in place of timm's BatchNormAct2d, followed by that layer's dropout and activation."""

    def __init__(self, channels: int, drop: nn.Module, act: nn.Module) -> None:
        super().__init__(num_groups(channels), channels)
        self.drop = drop
        self.act = act

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        activated: torch.Tensor = self.act(self.drop(super().forward(input)))
        return activated


def _converted(norm: _BatchNorm, kind: NormKind) -> nn.Module:
    if kind == "sync":
        synced: nn.Module = convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]  # timm is partly annotated
        return synced
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    group: nn.GroupNorm
    if isinstance(drop, nn.Module) and isinstance(act, nn.Module):
        group = _GroupNormAct(norm.num_features, drop, act)
    else:
        group = nn.GroupNorm(num_groups(norm.num_features), norm.num_features)
    if norm.affine:
        with torch.no_grad():
            group.weight.copy_(norm.weight)
            group.bias.copy_(norm.bias)
    return group


def convert_norms(module: nn.Module, kind: NormKind) -> None:
    """Replaces the batch normalisations inside `module` with `kind`, in place; their weights and biases are kept.

    batch and frozen change nothing here: frozen layers are plain ones that the network keeps in evaluation mode.
    """
    if kind in ("batch", "frozen"):
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _converted(child, kind))
