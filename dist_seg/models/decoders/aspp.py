"""Atrous spatial pyramid pooling with separable convolutions (Chen et al. 2018, arXiv:1802.02611)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from dist_seg.models.norm import NormKind, make_norm


def conv_norm_relu(in_channels: int, out_channels: int, norm: NormKind) -> nn.Sequential:
    """1x1 convolution, normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False), make_norm(norm, out_channels), nn.ReLU(inplace=True)
    )


def separable_conv(in_channels: int, out_channels: int, norm: NormKind, dilation: int = 1) -> nn.Sequential:
    """3x3 depthwise convolution, 1x1 convolution, normalisation, ReLU; the size stays."""
    depthwise = nn.Conv2d(
        in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
    )
    return nn.Sequential(depthwise, *conv_norm_relu(in_channels, out_channels, norm))


class ImagePooling(nn.Module):
    """The mean of the whole map, projected and spread over it again.

    It has a bias and no normalisation: its map is 1x1, and batch moments over the few values of a micro-batch are
    noise (with one image they do not exist, and torch's BatchNorm raises).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.project(features.mean(dim=(2, 3), keepdim=True))
        return F.relu(pooled).expand(-1, -1, *features.shape[2:])


class ASPP(nn.Module):
    """Features (B, C, H, W) to (B, out_channels, H, W): 1x1, one dilated branch a rate, image pooling, projection."""

    def __init__(
        self, in_channels: int, out_channels: int, dilations: Sequence[int], norm: NormKind, dropout: float
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_norm_relu(in_channels, out_channels, norm)])
        self.branches.extend(separable_conv(in_channels, out_channels, norm, rate) for rate in dilations)
        self.pooling = ImagePooling(in_channels, out_channels)
        self.project = conv_norm_relu((len(dilations) + 2) * out_channels, out_channels, norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        maps = [branch(features) for branch in self.branches]
        joined: torch.Tensor = self.dropout(self.project(torch.cat([*maps, self.pooling(features)], dim=1)))
        return joined
