"""Tells whether two small grey pictures show the same image, even if one is cropped.

The measure is the correlation of the pictures without their local means, so that the rough layout, such as a sky above
a road, does not count. It is the best one over crops of either picture by up to a tenth of each side.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.inspection.samples.hashes import THUMBNAIL_SIDE

_MOST_CROPPED = 0.1
_HOPELESS = 0.55
"""Correlation at the coarse resolution below which the fine one is not tried. Copies of CamVid's and COCO's training
images have 0.8 and more, of nuclei 0.6."""

Pictures = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Crops:
    """Matrices that crop one side of a picture and scale the rest."""

    pick: NDArray[np.float32]
    """(crops, side of the result, side of the picture); the first crop is the whole side."""
    pick_mean: NDArray[np.float32]
    """The same, with the mean over neighbours."""


def similarity(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Correlation, at most 1, of two thumbnails (32, 32) at the best crop of either."""
    rough = _best(_halved(first), _halved(second), _crops(THUMBNAIL_SIDE // 2, 16, 5, 0.05))
    if rough < _HOPELESS:
        return rough
    fine = _crops(THUMBNAIL_SIDE, 24, 7, 0.025)
    return _best(first.astype(np.float32), second.astype(np.float32), fine)


def in_place(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N - 1,) correlation of each thumbnail (N, 32, 32) with the next one, without crops."""
    crops = _crops(THUMBNAIL_SIDE // 2, 16, 5, 0.05)
    described = (_described(_halved(thumbnail), crops, 1)[0] for thumbnail in thumbnails)
    return np.array([np.vdot(one, following) for one, following in pairwise(described)], np.float32)


def _best(first: Pictures, second: Pictures, crops: _Crops) -> float:
    firsts, seconds = _described(first, crops), _described(second, crops)
    return float(max((firsts @ seconds[0]).max(), (seconds @ firsts[0]).max()))


def _described(picture: Pictures, crops: _Crops, first: int | None = None) -> NDArray[np.float32]:
    """(crops², pixels): crops of a picture as vectors of length 1 and mean 0. first: number of crops per side."""
    rows, columns = crops.pick[:first], crops.pick_mean[:first]
    sharp = (rows @ picture)[:, None] @ rows.transpose(0, 2, 1)[None]
    smooth = (columns @ picture)[:, None] @ columns.transpose(0, 2, 1)[None]
    vectors = (sharp - smooth).reshape(len(rows) ** 2, -1)
    vectors -= vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    described: NDArray[np.float32] = vectors / (lengths + np.float32(1e-3))
    return described


def _halved(thumbnail: NDArray[np.uint8]) -> Pictures:
    return np.asarray(Image.fromarray(thumbnail).reduce(2), np.float32)


@cache
def _crops(side: int, out: int, neighbours: int, step: float) -> _Crops:
    cut = np.arange(0, _MOST_CROPPED + 1e-9, step)
    spans = [(low, 1 - high) for low in cut for high in cut if low + high <= _MOST_CROPPED + 1e-9]
    pick = np.stack([_resampling(side, out, low, high) for low, high in spans])
    mean = np.zeros((out, out), np.float32)
    for row in range(out):
        for near in range(row - neighbours // 2, row + neighbours // 2 + 1):
            mean[row, min(max(near, 0), out - 1)] += 1 / neighbours
    return _Crops(pick=pick, pick_mean=mean @ pick)


def _resampling(side: int, out: int, low: float, high: float) -> NDArray[np.float32]:
    """(out, side): linear interpolation at the centres of `out` parts of the span from low to high."""
    at = np.clip((low + (np.arange(out) + 0.5) / out * (high - low)) * side - 0.5, 0, side - 1)
    left = np.minimum(at.astype(np.intp), side - 2)
    matrix = np.zeros((out, side), np.float32)
    matrix[np.arange(out), left] = 1 - (at - left)
    matrix[np.arange(out), left + 1] += at - left
    return matrix
