"""Augmentation as data: the transform of a sample is drawn here as plain numbers, and applied elsewhere.

The numbers of a sample are a pure function of (seed, epoch, key). So both loaders do the same, a resumed run sees what
an uninterrupted one would see, and image and mask cannot drift apart.

The steps for a picture, in order: decode the region `roi`, resize it to `resized`, blur, change colours, place it on
the canvas. Placing is an offset and a mirror, or one warp if the recipe rotates. Masks are never interpolated.

Coordinates are continuous: pixel i covers [i, i + 1), and its centre is i + 0.5.
"""

import hashlib
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from dist_seg.config.schema import AugmentConfig, DataConfig

Affine = tuple[float, float, float, float, float, float]
"""Row by row: x' = a x + b y + c, y' = d x + e y + f."""


class _Draw(IntEnum):
    """Index of each drawn number. It is fixed, so that switching a setting on does not change the others."""

    SCALE = 0
    TOP = 1
    LEFT = 2
    FLIP = 3
    ROTATES = 4
    ANGLE = 5
    COLORS = 6
    BRIGHTNESS = 7
    CONTRAST = 8
    SATURATION = 9
    HUE = 10
    BLURS = 11
    SIGMA = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleTransform:
    """Everything that is done to one sample. Sizes and offsets are (height, width) or (y, x) in whole pixels."""

    roi: tuple[int, int, int, int]
    """The part of the source picture to use: y, x, height, width. It lies inside the picture."""
    resized: tuple[int, int]
    """Size of the part after resizing, with an antialiasing filter if it shrinks."""
    canvas: tuple[int, int]
    """Size of the network's input."""
    offset: tuple[int, int] = (0, 0)
    """Position of the resized part on the canvas before the mirror; the rest is padding. Not used with a warp."""
    flip: bool = False
    """Mirror the canvas left to right. Not used with a warp, which includes the mirror."""
    warp: Affine | None = None
    """Maps the canvas to the part `roi` at its source resolution, including the mirror."""
    color: tuple[float, ...] | None = None
    """A 3 by 4 matrix, row by row, that maps RGB (0 to 255) to RGB without clamping."""
    blur_sigma: float = 0.0
    """Standard deviation of the Gaussian, in pixels of the resized part; 0 does not blur."""

    @property
    def area_scale(self) -> float:
        """Canvas pixels per source pixel."""
        if self.warp is None:
            return self.resized[0] * self.resized[1] / (self.roi[2] * self.roi[3])
        a, b, _, d, e, _ = self.warp
        return 1 / abs(a * e - b * d)

    @property
    def image_warp(self) -> Affine:
        """Maps the canvas to the resized part; otherwise like `warp`."""
        assert self.warp is not None
        along_y, along_x = self.resized[0] / self.roi[2], self.resized[1] / self.roi[3]
        a, b, c, d, e, f = self.warp
        return a * along_x, b * along_x, c * along_x, d * along_y, e * along_y, f * along_y


def draw(
    cfg: AugmentConfig,
    *,
    input_scale: float,
    height: int,
    width: int,
    crop: tuple[int, int] | None,
    rng: np.random.Generator,
) -> SampleTransform:
    """Draw the transform of a picture of `height` × `width` pixels.

    crop: (height, width) of the canvas; None takes the whole picture at its drawn scale.
    """
    u = rng.random(len(_Draw))
    factor = input_scale * math.exp(_between(math.log(cfg.scale_min), math.log(cfg.scale_max), u[_Draw.SCALE]))
    scaled = scaled_size(height, width, factor)
    canvas = crop or scaled
    corner = (_place(scaled[0], canvas[0], u[_Draw.TOP]), _place(scaled[1], canvas[1], u[_Draw.LEFT]))
    flip = bool(u[_Draw.FLIP] < cfg.flip_probability)
    sigma = 0.0
    if cfg.blur_sigma_max > 0 and u[_Draw.BLURS] < cfg.blur_probability:
        sigma = _between(0.1, cfg.blur_sigma_max, u[_Draw.SIGMA])
    color = _draw_color(cfg, u)
    if cfg.rotate_deg > 0:
        angle = _between(-cfg.rotate_deg, cfg.rotate_deg, u[_Draw.ANGLE])
        radians = math.radians(angle) if u[_Draw.ROTATES] < cfg.rotate_probability else 0.0
        return _warped((height, width), scaled, canvas, corner, radians, flip, color, sigma)
    begin = (max(corner[0], 0), max(corner[1], 0))
    end = (min(corner[0] + canvas[0], scaled[0]), min(corner[1] + canvas[1], scaled[1]))
    y, h = _source_span(begin[0], end[0], scaled[0], height)
    x, w = _source_span(begin[1], end[1], scaled[1], width)
    return SampleTransform(
        roi=(y, x, h, w),
        resized=(end[0] - begin[0], end[1] - begin[1]),
        canvas=canvas,
        offset=(max(-corner[0], 0), max(-corner[1], 0)),
        flip=flip,
        color=color,
        blur_sigma=sigma,
    )


def eval_transform(*, input_scale: float, height: int, width: int) -> SampleTransform:
    """The whole picture, resized by `input_scale`, and nothing else."""
    size = scaled_size(height, width, input_scale)
    return SampleTransform(roi=(0, 0, height, width), resized=size, canvas=size)


def input_factor(cfg: DataConfig, height: int, width: int) -> float:
    """The factor that scales a picture before anything else is drawn or done."""
    return cfg.input_side / max(height, width) if cfg.input_side else cfg.input_scale or 1.0


def scaled_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """The size of a picture after scaling, at least one pixel."""
    return max(1, round(height * factor)), max(1, round(width * factor))


def digest(keys: Iterable[str], transforms: Iterable[SampleTransform]) -> int:
    """63-bit hash of the keys and everything drawn for them, in order."""
    state = hashlib.blake2b(digest_size=8)
    for key, t in zip(keys, transforms, strict=True):
        encoded = key.encode()
        state.update(struct.pack("<I", len(encoded)) + encoded)
        state.update(struct.pack("<10i?d", *t.roi, *t.resized, *t.canvas, *t.offset, t.flip, t.blur_sigma))
        for numbers in (t.warp or (), t.color or ()):
            state.update(struct.pack(f"<I{len(numbers)}d", len(numbers), *numbers))
    return int.from_bytes(state.digest(), "little") >> 1


def color_matrix(*, brightness: float, contrast: float, saturation: float, hue_deg: float) -> NDArray[np.float64]:
    """(3, 4) map of RGB in 0..255 that applies brightness, contrast, saturation and hue, in this order.

    Contrast pivots on mid grey, so that the map does not depend on the picture. Saturation mixes with the grey of
    ITU-R BT.601. Hue rotates the chroma plane of YIQ.
    """
    linear, constant = brightness * contrast * np.eye(3), np.full(3, 127.5 * (1 - contrast))
    radians = math.radians(hue_deg)
    cosine, sine = math.cos(radians), math.sin(radians)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    chroma = saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), _TO_YIQ[0])
    if hue_deg:
        chroma = _FROM_YIQ @ turn @ _TO_YIQ @ chroma
    return np.concatenate([chroma @ linear, (chroma @ constant)[:, None]], axis=1)


_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def _draw_color(cfg: AugmentConfig, u: NDArray[np.float64]) -> tuple[float, ...] | None:
    strengths = (cfg.brightness, cfg.contrast, cfg.saturation, cfg.hue_deg)
    if not any(strengths) or u[_Draw.COLORS] >= cfg.color_probability:
        return None
    matrix = color_matrix(
        brightness=_between(1 - cfg.brightness, 1 + cfg.brightness, u[_Draw.BRIGHTNESS]),
        contrast=_between(1 - cfg.contrast, 1 + cfg.contrast, u[_Draw.CONTRAST]),
        saturation=_between(1 - cfg.saturation, 1 + cfg.saturation, u[_Draw.SATURATION]),
        hue_deg=_between(-cfg.hue_deg, cfg.hue_deg, u[_Draw.HUE]),
    )
    return tuple(matrix.reshape(-1).tolist())


def _warped(
    source: tuple[int, int],
    scaled: tuple[int, int],
    canvas: tuple[int, int],
    corner: tuple[int, int],
    radians: float,
    flip: bool,
    color: tuple[float, ...] | None,
    sigma: float,
) -> SampleTransform:
    """The crop at `corner` of the scaled picture, rotated about the centre of the crop."""
    cosine, sine = math.cos(radians), math.sin(radians)
    side = -1.0 if flip else 1.0
    middle_y, middle_x = canvas[0] / 2, canvas[1] / 2
    along_y, along_x = source[0] / scaled[0], source[1] / scaled[1]
    to_source = (
        along_x * cosine * side,
        along_x * sine,
        along_x * (corner[1] + middle_x - cosine * side * middle_x - sine * middle_y),
        -along_y * sine * side,
        along_y * cosine,
        along_y * (corner[0] + middle_y + sine * side * middle_x - cosine * middle_y),
    )
    corners = [(x, y) for x in (0, canvas[1]) for y in (0, canvas[0])]
    x, w = _covering([to_source[0] * cx + to_source[1] * cy + to_source[2] for cx, cy in corners], source[1])
    y, h = _covering([to_source[3] * cx + to_source[4] * cy + to_source[5] for cx, cy in corners], source[0])
    # The warp does the enlarging: one interpolation instead of two, and less to resize. Shrinking needs the filter.
    resized = (min(h, max(1, round(h / along_y))), min(w, max(1, round(w / along_x))))
    return SampleTransform(
        roi=(y, x, h, w),
        resized=resized,
        canvas=canvas,
        warp=(*to_source[:2], to_source[2] - x, *to_source[3:5], to_source[5] - y),
        color=color,
        blur_sigma=sigma * min(1.0, along_y),
    )


def _between(low: float, high: float, u: float) -> float:
    return low + (high - low) * float(u)


def _place(size: int, window: int, u: float) -> int:
    """First pixel of a window on an axis of `size` pixels: the window lies inside the axis, or covers all of it."""
    low, high = min(0, size - window), max(0, size - window)
    return low + min(int(u * (high - low + 1)), high - low)


def _source_span(begin: int, end: int, scaled: int, source: int) -> tuple[int, int]:
    """(begin, length) in the source of the span [begin, end) on the scaled axis, rounded to whole pixels."""
    first = min(round(begin * source / scaled), source - 1)
    return first, max(first + 1, min(round(end * source / scaled), source)) - first


def _covering(points: list[float], source: int) -> tuple[int, int]:
    """(begin, length) of the pixels that cover the points, with one more on either side, inside the source."""
    first = min(max(math.floor(min(points)) - 1, 0), source - 1)
    return first, max(first + 1, min(math.ceil(max(points)) + 1, source)) - first
