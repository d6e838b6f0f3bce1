"""Turns pixels into the network's input: colour jitter and normalisation as one affine map."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_seg.config.schema import DataConfig
from dist_seg.data.loading.augment import SampleTransform
from dist_seg.data.view.pixel_values import IMAGENET_MEAN, fit_pictures, layout_of_data, value_range

_WHITE = 255.0


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """y = scale · x + shift for every channel that the network takes."""

    scale: tuple[float, ...]
    shift: tuple[float, ...]
    padding: tuple[float, ...]
    """Pixel values around an image, equal to the mean: RGB for pictures, and for arrays one value for each channel that
    the network takes."""
    channels: tuple[int, ...] | None = None
    """Pictures only: which of R, G and B the network takes; None for all."""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    """Arrays only: the values that jitter treats as black and white. None for pictures."""


def normalization(cfg: DataConfig) -> Normalization:
    """The numbers that `data.normalize`, `data.mean` and `data.std` stand for.

    cfg: for arrays, as `fit_pixels` completes it.
    """
    is_array = layout_of_data(cfg) is not None
    if not is_array:
        cfg = fit_pictures(cfg)
    mean, std = cfg.mean, cfg.std
    assert mean is not None and std is not None
    low, high = value_range(cfg)
    spans = [b - a for a, b in zip(low, high, strict=True)]
    match cfg.normalize:
        case "mean_std":
            scale = tuple(1 / (span * s) for span, s in zip(spans, std, strict=True))
            shift = tuple(-m / s for m, s in zip(mean, std, strict=True))
        case "unit":
            scale, shift = tuple(1 / span for span in spans), (0.0,) * len(spans)
        case "symmetric":
            scale, shift = tuple(2 / span for span in spans), (-1.0,) * len(spans)
    shift = tuple(b - a * x for a, b, x in zip(scale, shift, low, strict=True))
    around = tuple(m * span + a for m, span, a in zip(mean, spans, low, strict=True))
    if is_array:
        return Normalization(scale=scale, shift=shift, padding=around, low=low, high=high)
    # The padding of a picture needs all three channels, because jitter mixes them.
    of_rgb = {channel: m * _WHITE for channel, m in enumerate(IMAGENET_MEAN)}
    of_rgb |= dict(zip(range(3) if cfg.channels is None else cfg.channels, around, strict=True))
    padding = tuple(min(max(round(of_rgb[channel]), 0), 255) for channel in range(3))
    return Normalization(scale=scale, shift=shift, padding=padding, channels=cfg.channels)


def normalize(images: Tensor | Sequence[Tensor], transforms: Sequence[SampleTransform], norm: Normalization) -> Tensor:
    """Applies colour and normalisation: (B, C, H, W) float32, contiguous, on the images' device.

    images: (B, 3, H, W) or B times (3, H, W) uint8 RGB, or C channels of float32 for arrays, in any memory order.
    Colours are not clamped: pixels that jitter makes brighter than white stay distinct.
    """
    if len(images) == 0:
        return torch.empty(0, len(norm.scale), 1, 1)
    if norm.low is not None:
        return _normalized_arrays(images, transforms, norm)
    device, (_, height, width) = images[0].device, images[0].shape
    maps = torch.from_numpy(np.stack([_color_map(t, norm) for t in transforms])).to(device)
    normalized = torch.empty(len(images), maps.shape[1], height * width, device=device)
    # On the CPU one image at a time, so that its floats stay in the cache; on a GPU all at once, in few kernels.
    together = 1 if device.type == "cpu" else len(images)
    pixels = torch.empty(together, 3, height, width, device=device)
    for start in range(0, len(images), together):
        for row, image in zip(pixels, images[start : start + together], strict=True):
            row.copy_(image)
        part = slice(start, start + together)
        torch.baddbmm(maps[part, :, 3:], maps[part, :, :3], pixels.view(together, 3, -1), out=normalized[part])
    return normalized.view(len(images), maps.shape[1], height, width)


def as_pictures(images: Tensor, norm: Normalization) -> list[NDArray[np.uint8]]:
    """Normalised images (B, C, H, W) as B pictures (H, W, 3) RGB, clamped to black and white.

    Images with channels other than R, G and B show the first three, or the first as grey.
    """
    count = len(norm.scale)
    chosen = [0, 1, 2] if count >= 3 else [0, 0, 0]
    black, white = norm.low or (0.0,) * count, norm.high or (_WHITE,) * count
    scale, shift, low, high = (
        np.array(numbers, np.float32)[chosen] for numbers in (norm.scale, norm.shift, black, white)
    )
    images_hwc = images.detach().float().cpu()[:, chosen].permute(0, 2, 3, 1).numpy()
    values = (images_hwc - shift) / scale
    return list(np.rint((values - low) * (_WHITE / (high - low))).clip(0, _WHITE).astype(np.uint8))


def _color_map(t: SampleTransform, norm: Normalization) -> NDArray[np.float32]:
    """(C, 4): maps RGB in 0..255 to the normalised channels."""
    drawn = np.eye(3, 4) if t.color is None else np.array(t.color).reshape(3, 4)
    if norm.channels is not None:
        drawn = drawn[list(norm.channels)]
    normalized: NDArray[np.float64] = np.array(norm.scale)[:, None] * drawn
    normalized[:, 3] += norm.shift
    return normalized.astype(np.float32)


def _normalized_arrays(
    images: Tensor | Sequence[Tensor], transforms: Sequence[SampleTransform], norm: Normalization
) -> Tensor:
    """Treats every channel by itself: a colour matrix of C × C numbers would be zero off its diagonal."""
    device = images[0].device
    maps = torch.from_numpy(np.stack([_channel_map(t, norm) for t in transforms])).to(device)
    normalized = torch.empty(len(images), *images[0].shape, device=device)
    for image, (scale, shift), out in zip(images, maps, normalized, strict=True):
        torch.addcmul(shift[:, None, None], image, scale[:, None, None], out=out)
    return normalized


def _channel_map(t: SampleTransform, norm: Normalization) -> NDArray[np.float32]:
    """(2, C): factor and constant that normalise each channel, with brightness and contrast."""
    assert norm.low is not None and norm.high is not None
    gain, offset = (1.0, 0.0) if t.color is None else (t.color[0], t.color[3] / _WHITE)
    scale, shift, low, high = (np.array(numbers) for numbers in (norm.scale, norm.shift, norm.low, norm.high))
    jittered = (1 - gain) * low + offset * (high - low)
    return np.stack([scale * gain, scale * jittered + shift]).astype(np.float32)
