"""Percentiles, means and deviations of every channel, counted shard by shard while packing and combined at the end.

Sums are exact. Percentiles come from a histogram with one bin for each value below 256, and 128 bins for each power of
two above, so a percentile is exact to within 1/128 of its value.
"""

import base64
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.npy import ArrayLayout, Values
from dist_seg.data.shards.manifest import ChannelStatistics

LOW_PERCENTILE, HIGH_PERCENTILE = 0.1, 99.9
_BINS_PER_OCTAVE = 128
_EDGES = np.concatenate(
    [np.arange(256), *((np.arange(_BINS_PER_OCTAVE) + _BINS_PER_OCTAVE) << shift for shift in range(1, 9)), [65536]]
)
"""The first value of each bin, and the end of the last one."""


@dataclass(frozen=True, kw_only=True)
class ShardChannels:
    """The sums of one shard. They are recorded, so that a later run of packing need not read the shard again."""

    pixels: int
    sums: tuple[int, ...]
    """Sum of the values of each channel."""
    square_sums: tuple[int, ...]
    histograms: str
    """Histograms of all channels: (C, bins) 64-bit little-endian numbers, compressed, in base 64."""


class ChannelCounter:
    """Counts the values of a shard's images, image by image."""

    def __init__(self, layout: ArrayLayout) -> None:
        self._layout = layout
        self._pixels = 0
        self._sums, self._square_sums = [0] * layout.channels, [0] * layout.channels
        self._histograms = np.zeros((layout.channels, _num_bins(layout)), np.int64)

    def add(self, values: Values) -> None:
        """Count an image. values: (H, W, C)."""
        self._pixels += values.shape[0] * values.shape[1]
        each = np.arange(self._layout.largest + 1, dtype=np.int64)
        for channel in range(self._layout.channels):
            counts = np.bincount(values[..., channel].ravel(), minlength=len(each))
            # The sums of one image fit into 64 bits; those of a data set may not.
            self._sums[channel] += int(counts @ each)
            self._square_sums[channel] += int(counts @ (each * each))
            edges = _EDGES[: self._histograms.shape[1]]
            self._histograms[channel] += np.add.reduceat(counts, edges)

    def counts(self) -> ShardChannels:
        return ShardChannels(
            pixels=self._pixels,
            sums=tuple(self._sums),
            square_sums=tuple(self._square_sums),
            histograms=base64.b64encode(zlib.compress(self._histograms.astype("<i8").tobytes())).decode(),
        )


def channel_statistics(layout: ArrayLayout, shards: Sequence[ShardChannels]) -> ChannelStatistics:
    """Statistics of all shards together, in any order. There must be at least one pixel."""
    pixels = sum(shard.pixels for shard in shards)
    sums = [sum(values) for values in zip(*(shard.sums for shard in shards), strict=True)]
    square_sums = [sum(values) for values in zip(*(shard.square_sums for shard in shards), strict=True)]
    histograms = np.zeros((layout.channels, _num_bins(layout)), np.int64)
    for shard in shards:
        histograms += _unpacked(shard, layout)
    # In whole numbers, because the difference of two large floats would keep few digits.
    variances = [pixels * squares - total * total for total, squares in zip(sums, square_sums, strict=True)]
    return ChannelStatistics(
        low=tuple(_low(histogram, pixels) for histogram in histograms),
        high=tuple(_high(histogram, pixels) for histogram in histograms),
        mean=tuple(total / pixels for total in sums),
        std=tuple(math.sqrt(variance) / pixels for variance in variances),
    )


def _num_bins(layout: ArrayLayout) -> int:
    return 256 if layout.dtype == "uint8" else len(_EDGES) - 1


def _unpacked(shard: ShardChannels, layout: ArrayLayout) -> NDArray[np.int64]:
    counts = np.frombuffer(zlib.decompress(base64.b64decode(shard.histograms)), "<i8")
    return counts.reshape(layout.channels, _num_bins(layout))


def _low(histogram: NDArray[np.int64], pixels: int) -> int:
    """The smallest value of the bin that holds the low percentile."""
    return int(_EDGES[_bin_of(histogram, pixels, LOW_PERCENTILE)])


def _high(histogram: NDArray[np.int64], pixels: int) -> int:
    """The largest value of the bin that holds the high percentile."""
    return int(_EDGES[_bin_of(histogram, pixels, HIGH_PERCENTILE) + 1]) - 1


def _bin_of(histogram: NDArray[np.int64], pixels: int, percentile: float) -> int:
    rank = max(1, math.ceil(pixels * percentile / 100))
    return int(np.searchsorted(np.cumsum(histogram), rank))
