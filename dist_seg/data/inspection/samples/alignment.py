"""Measures whether a mask lies on its image: its outlines should run where the image changes.

The outlines are shifted over the image's gradients by up to 24 pixels either way; horizontal and vertical changes are
compared separately. The fit at a shift is in robust standard deviations (median and MAD over all shifts).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.fft import irfft2, next_fast_len, rfft2

from dist_seg.data.codecs.encoded import UNKNOWN

REACH = 24
"""Largest shift, in pixels of images that are shrunk to `LONGER_SIDE`."""
LONGER_SIDE = 512
_MIN_SIDE = 64
_MIN_OUTLINE = 64
"""Pixels of outline that a mask needs to be judged."""
_NEIGHBOURHOOD = 15
"""Radius in pixels over which the image's contrast is evened out."""
_TRIED_BELOW = 5.0
"""Turned versions are tried only for a mask that fits worse than this."""
_MAD_TO_DEVIATION = 1.4826

Field = NDArray[np.float32]
Layers = NDArray[np.int16]

TURNS: dict[str, Callable[[Layers], Layers]] = {
    "mirrored": lambda layers: layers[:, :, ::-1],
    "upside down": lambda layers: layers[:, ::-1],
    "turned by 180 degrees": lambda layers: layers[:, ::-1, ::-1],
    "turned by 90 degrees": lambda layers: np.rot90(layers, 1, (1, 2)),
    "turned by 270 degrees": lambda layers: np.rot90(layers, 3, (1, 2)),
    "transposed": lambda layers: layers.transpose(0, 2, 1),
}
TURN_NAMES = tuple(TURNS)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a mask fits its image. Fits are in robust standard deviations."""

    fit: float
    """Without a shift, give or take a pixel."""
    best: float
    """At the best shift."""
    shift: tuple[float, float]
    """Offset (down, right) of the mask from its image, in the image's pixels."""
    turn: int
    """Index into `TURN_NAMES` of the turn that fits best when it is undone; -1 if none was tried."""
    turned: float
    """Fit of the mask after undoing that turn."""
    surface: Field
    """(49, 49) fit at every shift."""


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """Changes from one column (x) or row (y) to the next, (H, W) each; 0 and 1 for the outlines of a mask."""

    x: Field
    y: Field

    @property
    def length(self) -> float:
        return float(self.x.sum() + self.y.sum())


def measure_fit(image_HWC: NDArray[np.uint8], layers_LHW: Layers) -> Fit | None:
    """How a mask fits its image. None for small images, masks with hardly any outline, and images without contrast."""
    height, width = image_HWC.shape[:2]
    scale = 1 / shrinkage(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if min(size) < _MIN_SIDE:
        return None
    layers = layers_LHW if scale == 1 else shrunk_layers(layers_LHW, size)
    outlines = outlines_of(layers)
    if outlines.length < _MIN_OUTLINE:
        return None
    edges = edges_of(image_HWC, size)
    raw = _correlation(edges, outlines) / outlines.length
    middle, deviation = _spread(raw)
    if deviation <= 1e-9:
        return None
    surface = (raw - np.float32(middle)) / np.float32(deviation)
    down, right = peak(surface)
    fit = centre(surface)
    turn, turned = -1, -np.inf
    if fit < _TRIED_BELOW:
        scores = [(fit_of(edges, outlines_of(back(layers))) - middle) / deviation for back in _ways_back(size)]
        turn = int(np.argmax(scores))
        turned = scores[turn]
    return Fit(
        fit=fit,
        best=float(surface.max()),
        # The shift that moves the mask onto the image is the opposite of the one it has.
        shift=(-down / scale, -right / scale),
        turn=turn,
        turned=turned,
        surface=surface,
    )


def shrinkage(height: int, width: int) -> float:
    """Number of image pixels, along a side, for each pixel at the size that is looked at."""
    return max(1.0, max(height, width) / LONGER_SIDE)


def standardised(surface: NDArray[np.float64]) -> Field:
    """The surface in robust standard deviations over all shifts."""
    middle, deviation = _spread(surface)
    return ((surface - middle) / max(deviation, 1e-9)).astype(np.float32)


def peak(surface: Field) -> tuple[int, int]:
    """The shift (down, right) at which the outlines fit best."""
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    return int(row) - REACH, int(column) - REACH


def centre(surface: Field) -> float:
    """The fit without a shift, give or take a pixel."""
    return float(surface[REACH - 1 : REACH + 2, REACH - 1 : REACH + 2].max())


def edges_of(image_HWC: NDArray[np.uint8], size: tuple[int, int]) -> Outlines:
    """Changes of the image at a size (height, width): 0 to 1 relative to the local contrast, minus the mean."""
    grey = Image.fromarray(image_HWC).convert("L")
    if grey.size != (size[1], size[0]):
        grey = grey.resize((size[1], size[0]), Image.Resampling.BOX)
    smooth = np.asarray(grey.filter(ImageFilter.GaussianBlur(1)), np.float32)
    x, y = np.zeros_like(smooth), np.zeros_like(smooth)
    np.abs(np.subtract(smooth[:, 1:], smooth[:, :-1], out=x[:, 1:]), out=x[:, 1:])
    np.abs(np.subtract(smooth[1:], smooth[:-1], out=y[1:]), out=y[1:])
    # Strong edges in one part of a picture would drown faint ones elsewhere, so each change is divided by the contrast
    # around it. Most is done in place, because new memory for a step takes longer than the step.
    changes = x + y
    changes *= 4
    np.minimum(changes, 255, out=changes)
    blurred = Image.fromarray(changes.astype(np.uint8)).filter(ImageFilter.BoxBlur(_NEIGHBOURHOOD))
    around = np.asarray(blurred, np.float32) * np.float32(1 / 8)
    around += 1
    for change in (x, y):
        np.divide(change, np.add(change, around, out=changes), out=change)
        change -= change.mean()
    return Outlines(x=x, y=y)


def outlines_of(layers_LHW: Layers) -> Outlines:
    """Where any of the layers changes between known pixels."""
    known = layers_LHW != UNKNOWN
    x, y = np.zeros(layers_LHW.shape[1:], np.float32), np.zeros(layers_LHW.shape[1:], np.float32)
    across = (layers_LHW[:, :, 1:] != layers_LHW[:, :, :-1]) & known[:, :, 1:] & known[:, :, :-1]
    down = (layers_LHW[:, 1:] != layers_LHW[:, :-1]) & known[:, 1:] & known[:, :-1]
    x[:, 1:], y[1:] = across.any(axis=0), down.any(axis=0)
    return Outlines(x=x, y=y)


def fit_of(edges: Outlines, outlines: Outlines) -> float:
    """Mean of the edges under the outlines, both of one size."""
    total = np.vdot(edges.x, outlines.x) + np.vdot(edges.y, outlines.y)
    return float(total) / max(outlines.length, 1.0)


def shrunk_layers(layers_LHW: Layers, size: tuple[int, int]) -> Layers:
    """The layers at a size (height, width), by the nearest pixel."""
    rows, columns = (
        ((np.arange(to) + 0.5) * length / to).astype(np.intp)
        for to, length in zip(size, layers_LHW.shape[1:], strict=True)
    )
    return layers_LHW[:, rows][:, :, columns]


def _spread(values: NDArray[np.floating]) -> tuple[float, float]:
    middle = float(np.median(values))
    return middle, float(np.median(np.abs(values - middle))) * _MAD_TO_DEVIATION


def _ways_back(size: tuple[int, int]) -> list[Callable[[Layers], Layers]]:
    """The functions that undo every turn that the size allows, in the order of `TURN_NAMES`."""
    undone = {**TURNS, "turned by 90 degrees": TURNS["turned by 270 degrees"]}
    undone["turned by 270 degrees"] = TURNS["turned by 90 degrees"]
    ways = list(undone.values())
    return ways if size[0] == size[1] else ways[:3]


def _correlation(edges: Outlines, outlines: Outlines) -> Field:
    """(49, 49) sum of the edges under the outlines at every shift, by FFT with zero padding."""
    height, width = edges.x.shape
    shape = next_fast_len(height + REACH, real=True), next_fast_len(width + REACH, real=True)
    spectrum = rfft2(edges.x, shape) * rfft2(outlines.x, shape).conj()
    spectrum += rfft2(edges.y, shape) * rfft2(outlines.y, shape).conj()
    around: Field = np.roll(irfft2(spectrum, shape), (REACH, REACH), (0, 1))[: 2 * REACH + 1, : 2 * REACH + 1]
    return around
