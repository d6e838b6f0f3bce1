"""The feature pyramid network (Lin et al. 2017, arXiv:1612.03144), and the normalisation of detection heads."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from dist_seg.models.norm import make_norm

PYRAMID_LEVEL_STRIDES = (4, 8, 16, 32, 64)
"""The last level holds every second cell of the level before it."""


def head_norm_layer(kind: Literal["none", "group"]) -> Callable[[int], nn.Module] | None:
    """The `norm_layer` argument of torchvision's heads."""
    return None if kind == "none" else lambda channels: make_norm("group", channels)


class FeaturePyramid(FeaturePyramidNetwork):  # type: ignore[misc]  # torchvision is not annotated
    """Turns encoder maps at strides 4, 8, 16, 32 into maps (B, channels, H/stride, W/stride) at strides 4 to 64."""

    def __init__(self, in_channels: Sequence[int], channels: int, norm: Literal["none", "group"]) -> None:
        super().__init__(list(in_channels), channels, LastLevelMaxPool(), head_norm_layer(norm))

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        levels: dict[str, torch.Tensor] = super().forward({str(i): level for i, level in enumerate(features)})
        return list(levels.values())
