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
    device, (_, height, width) = images[0].device, images[0].shape
    maps = torch.from_numpy(np.stack([_color_map(t, norm) for t in transforms])).to(device)
    normalized = torch.empty(len(images), 3, height * width, device=device)
    # On the CPU one at a time, whose floats then stay in the cache; on a GPU all at once, in few kernels.
    together = 1 if device.type == "cpu" else len(images)
    pixels = torch.empty(together, 3, height, width, device=device)
    for start in range(0, len(images), together):
        for row, image in zip(pixels, images[start : start + together], strict=True):
            row.copy_(image)
        part = slice(start, start + together)
        torch.baddbmm(maps[part, :, 3:], maps[part, :, :3], pixels.view(together, 3, -1), out=normalized[part])
    return normalized.view(len(images), 3, height, width)


def as_pictures(images: Tensor, norm: Normalization) -> list[NDArray[np.uint8]]:
    """Normalised images (B, 3, H, W) as B pictures (H, W, 3) RGB: what was jittered beyond black and white is cut."""
    scale, shift = (np.array(numbers, np.float32) for numbers in (norm.scale, norm.shift))
    images_hwc = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    return list(np.rint((images_hwc - shift) / scale).clip(0, _WHITE).astype(np.uint8))


def _color_map(t: SampleTransform, norm: Normalization) -> NDArray[np.float32]:
    """(3, 4): RGB in 0..255 to the normalised colour."""
    drawn = np.eye(3, 4) if t.color is None else np.array(t.color).reshape(3, 4)
    normalized: NDArray[np.float64] = np.array(norm.scale)[:, None] * drawn
    normalized[:, 3] += norm.shift
    return normalized.astype(np.float32)
