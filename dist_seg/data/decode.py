"""The reference: applies a drawn transform with PIL and torchvision, on the CPU. It defines what DALI has to match.

Letters after a name give its axes: H height, W width, C channels, B batch.
"""

import io
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from dist_seg.config.schema import DataConfig
from dist_seg.data.augment import Affine, SampleTransform
from dist_seg.data.headers import UndecodableError

_GREY_LEVELS = 255.0


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """y = scale x + shift for every channel of RGB in 0..255, and the colour that padding has."""

    scale: tuple[float, float, float]
    shift: tuple[float, float, float]
    padding: tuple[float, float, float]
    """In 0..255: the data set's mean colour."""


def normalization(cfg: DataConfig) -> Normalization:
    """What `data.normalize` stands for."""
    mean, std = cfg.mean, cfg.std
    padding = (mean[0] * _GREY_LEVELS, mean[1] * _GREY_LEVELS, mean[2] * _GREY_LEVELS)
    match cfg.normalize:
        case "mean_std":
            scale = (1 / (_GREY_LEVELS * std[0]), 1 / (_GREY_LEVELS * std[1]), 1 / (_GREY_LEVELS * std[2]))
            shift = (-mean[0] / std[0], -mean[1] / std[1], -mean[2] / std[2])
        case "unit":
            scale, shift = (1 / _GREY_LEVELS,) * 3, (0.0, 0.0, 0.0)
        case "symmetric":
            scale, shift = (2 / _GREY_LEVELS,) * 3, (-1.0, -1.0, -1.0)
    return Normalization(scale=scale, shift=shift, padding=padding)


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a JPEG or PNG, grey ones included. Raises `UndecodableError`."""
    return np.array(_decode(data, "RGB"))


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """(H, W) uint8 class ids of a grey PNG. Raises `UndecodableError`."""
    return np.array(_decode(data, "L"))


def _decode(data: bytes, mode: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if mode == "L" and image.mode != "L":
                raise UndecodableError(f"a mask must be 8-bit grey, this one is {image.mode}")
            return image.convert(mode)
    # What PIL raises for damaged files, by its formats' readers.
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise UndecodableError(str(error) or type(error).__name__) from error


def place_image(image_hwc: NDArray[np.uint8], t: SampleTransform, padding: tuple[float, float, float]) -> Tensor:
    """(3, H, W) float32 in 0..255 minus the padding colour, so that padding is 0; the canvas of `t`."""
    y, x, h, w = t.roi
    part_chw = torch.from_numpy(image_hwc[y : y + h, x : x + w]).permute(2, 0, 1)
    if (h, w) != t.resized:
        part_chw = functional.resize(part_chw, list(t.resized), antialias=True)
    if t.blur_sigma > 0:
        part_chw = gaussian_blur(part_chw, t.blur_sigma)
    centred_chw = part_chw.float() - torch.tensor(padding)[:, None, None]
    if t.warp is not None:
        return _warp(centred_chw, t.image_warp, t.canvas)
    if t.resized != t.canvas:
        canvas_chw = torch.zeros(3, *t.canvas)
        y, x = t.offset
        canvas_chw[:, y : y + t.resized[0], x : x + t.resized[1]] = centred_chw
        centred_chw = canvas_chw
    return centred_chw.flip(2) if t.flip else centred_chw.contiguous()


def place_mask(mask_hw: NDArray[np.uint8], t: SampleTransform, ignore_index: int) -> NDArray[np.uint8]:
    """(H, W) uint8 on the canvas of `t`, taken from the nearest pixels; `ignore_index` outside the picture."""
    y, x, h, w = t.roi
    part_hw = mask_hw[y : y + h, x : x + w]
    if t.warp is not None:
        return _warp_nearest(part_hw, t.warp, t.canvas, ignore_index)
    part_hw = part_hw.take(_nearest(h, t.resized[0]), axis=0).take(_nearest(w, t.resized[1]), axis=1)
    if t.resized != t.canvas:
        canvas_hw = np.full(t.canvas, ignore_index, dtype=np.uint8)
        y, x = t.offset
        canvas_hw[y : y + t.resized[0], x : x + t.resized[1]] = part_hw
        part_hw = canvas_hw
    return np.ascontiguousarray(part_hw[:, ::-1] if t.flip else part_hw)


def finish(centred_bchw: Tensor, transforms: list[SampleTransform], norm: Normalization) -> Tensor:
    """Colour and normalisation, as one affine map of RGB a sample: (B, 3, H, W) float32.

    centred_bchw: float32, RGB in 0..255 minus `norm.padding`, as `place_image` gives it.
    """
    b, c, h, w = centred_bchw.shape
    maps = torch.from_numpy(np.stack([_color_map(t, norm) for t in transforms])).to(centred_bchw.device)
    pixels = centred_bchw.reshape(b, c, h * w)
    return torch.baddbmm(maps[:, :, 3:], maps[:, :, :3], pixels).view(b, c, h, w)


def gaussian_blur(image_chw: Tensor, sigma: float) -> Tensor:
    """(C, H, W) uint8, window of 2 ceil(3 sigma) + 1 pixels, mirrored about its outermost pixels."""
    radius = math.ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (weights / weights.sum()).tolist()
    blurred_chw = image_chw.float()
    for axis in (1, 2):
        size = blurred_chw.shape[axis]
        padded = blurred_chw.index_select(axis, _mirrored(size, radius))
        blurred_chw = padded.narrow(axis, 0, size) * taps[0]
        for i in range(1, len(taps)):
            blurred_chw.add_(padded.narrow(axis, i, size), alpha=taps[i])
    return blurred_chw.round().clamp(0, 255).to(torch.uint8)


def _mirrored(size: int, radius: int) -> Tensor:
    """The indices -radius .. size + radius - 1, reflected into the axis about its outermost pixels."""
    if size == 1:
        return torch.zeros(1 + 2 * radius, dtype=torch.int64)
    period = 2 * (size - 1)
    folded = torch.arange(-radius, size + radius) % period
    return torch.minimum(folded, period - folded)


def _color_map(t: SampleTransform, norm: Normalization) -> NDArray[np.float32]:
    """(3, 4): pixel minus padding colour to the normalised colour."""
    matrix, constant = np.eye(3), np.zeros(3)
    if t.color is not None:
        drawn = np.array(t.color).reshape(3, 4)
        matrix, constant = drawn[:, :3], drawn[:, 3]
    scale = np.array(norm.scale)
    shift = scale * (matrix @ np.array(norm.padding) + constant) + np.array(norm.shift)
    return np.concatenate([scale[:, None] * matrix, shift[:, None]], axis=1).astype(np.float32)


def _nearest(source: int, size: int) -> NDArray[np.intp]:
    """The source pixel under the centre of every one of `size` pixels.

    Summed up in float32 as DALI does, so that centres that fall on a border between two pixels go the same way.
    """
    step = np.float32(source) / np.float32(size)
    steps = np.full(size, step, dtype=np.float32)
    steps[0] *= np.float32(0.5)
    return np.minimum(np.cumsum(steps, dtype=np.float32).astype(np.intp), source - 1)


def _warp(image_chw: Tensor, to_source: Affine, canvas: tuple[int, int]) -> Tensor:
    """Bilinear; 0 outside the picture."""
    h, w = image_chw.shape[1:]
    x, y = _source_points(to_source, canvas)
    grid = torch.from_numpy(np.stack([x * (2 / w) - 1, y * (2 / h) - 1], axis=-1).astype(np.float32))
    warped = torch.nn.functional.grid_sample(image_chw[None].contiguous(), grid[None], align_corners=False)
    return warped[0]


def _warp_nearest(
    mask_hw: NDArray[np.uint8], to_source: Affine, canvas: tuple[int, int], ignore_index: int
) -> NDArray[np.uint8]:
    h, w = mask_hw.shape
    x, y = (np.floor(points).astype(np.int32) for points in _source_points(to_source, canvas))
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    values = mask_hw[np.clip(y, 0, h - 1), np.clip(x, 0, w - 1)]
    return np.where(inside, values, np.uint8(ignore_index))


def _source_points(to_source: Affine, canvas: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x and y, each (H, W), that the canvas pixels' centres come from."""
    a, b, c, d, e, f = (np.float32(value) for value in to_source)
    x = np.arange(canvas[1], dtype=np.float32)[None, :] + np.float32(0.5)
    y = np.arange(canvas[0], dtype=np.float32)[:, None] + np.float32(0.5)
    return a * x + (b * y + c), d * x + (e * y + f)
