"""From the pixels of drawn samples to what the network takes: colour jitter and normalisation as one affine map."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_seg.config.schema import DataConfig
from dist_seg.data.augment import SampleTransform

_WHITE = 255.0


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """y = scale x + shift for every channel of RGB in 0..255, and the colour that padding has."""

    scale: tuple[float, float, float]
    shift: tuple[float, float, float]
    padding: tuple[int, int, int]
    """The data set's mean colour, in 0..255."""


def normalization(cfg: DataConfig) -> Normalization:
    """What `data.normalize` stands for."""
    mean, std = cfg.mean, cfg.std
    match cfg.normalize:
        case "mean_std":
            scale = (1 / (_WHITE * std[0]), 1 / (_WHITE * std[1]), 1 / (_WHITE * std[2]))
            shift = (-mean[0] / std[0], -mean[1] / std[1], -mean[2] / std[2])
        case "unit":
            scale, shift = (1 / _WHITE,) * 3, (0.0, 0.0, 0.0)
        case "symmetric":
            scale, shift = (2 / _WHITE,) * 3, (-1.0, -1.0, -1.0)
    padding = (round(mean[0] * _WHITE), round(mean[1] * _WHITE), round(mean[2] * _WHITE))
    return Normalization(scale=scale, shift=shift, padding=padding)


def normalize(images: Tensor | Sequence[Tensor], transforms: Sequence[SampleTransform], norm: Normalization) -> Tensor:
    """Colour and normalisation: (B, 3, H, W) float32, contiguous, on the images' device.

    images: (B, 3, H, W) or B times (3, H, W), uint8 RGB, in any order in memory. Colours are not clamped: what
    the jitter brightens beyond white stays apart.
    """
    if len(images) == 0:
        return torch.empty(0, 3, 1, 1)
    maps = torch.from_numpy(np.stack([_color_map(t, norm) for t in transforms])).to(images[0].device)
    _, height, width = images[0].shape
    pixels = torch.empty(len(images), 3, height, width, device=images[0].device)
    if isinstance(images, Tensor):
        pixels.copy_(images)
    else:
        for row, image in zip(pixels, images, strict=True):
            row.copy_(image)
    flat = pixels.view(len(images), 3, height * width)
    return torch.baddbmm(maps[:, :, 3:], maps[:, :, :3], flat).view_as(pixels)


def _color_map(t: SampleTransform, norm: Normalization) -> NDArray[np.float32]:
    """(3, 4): RGB in 0..255 to the normalised colour."""
    drawn = np.eye(3, 4) if t.color is None else np.array(t.color).reshape(3, 4)
    normalized: NDArray[np.float64] = np.array(norm.scale)[:, None] * drawn
    normalized[:, 3] += norm.shift
    return normalized.astype(np.float32)
