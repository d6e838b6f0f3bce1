"""Statistics of channels, against NumPy's over all pixels at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_seg.data.codecs.npy import ArrayLayout, layout_of
from dist_seg.data.shards.channel_statistics import ChannelCounter, channel_statistics
from tests.array_cases import Array, noise


def _counted(*images: Array) -> ChannelCounter:
    counter = ChannelCounter(layout_of(images[0]))
    for image in images:
        counter.add(image)
    return counter


@given(
    dtype=st.sampled_from(["uint8", "uint16"]),
    channels=st.integers(1, 4),
    shards=st.lists(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=3), min_size=1),
    skew=st.integers(1, 6),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_they_are_those_of_all_pixels(
    dtype: str, channels: int, shards: list[list[tuple[int, int]]], skew: int, seed: int
) -> None:
    rng, high = np.random.default_rng(seed), np.iinfo(dtype).max
    images = [[(high * rng.random((h, w, channels)) ** skew).astype(dtype) for h, w in sizes] for sizes in shards]
    layout = layout_of(images[0][0])
    found = channel_statistics(layout, [_counted(*of_shard).counts() for of_shard in images])
    pixels = np.concatenate([image.reshape(-1, channels) for of_shard in images for image in of_shard])
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.astype(np.float64).std(axis=0), rtol=1e-9, atol=1e-9)
    low, high_ = np.percentile(pixels, [0.1, 99.9], axis=0, method="inverted_cdf")
    assert np.all(np.array(found.low) <= low) and np.all(low - found.low <= np.where(low < 256, 0, low / 128))
    assert np.all(np.array(found.high) >= high_) and np.all(found.high - high_ <= np.where(high_ < 256, 0, high_ / 128))


def test_the_order_of_shards_does_not_matter() -> None:
    shards = [_counted(noise("uint16", 2, seed=seed)).counts() for seed in range(3)]
    layout = ArrayLayout(dtype="uint16", channels=2)
    assert channel_statistics(layout, shards) == channel_statistics(layout, shards[::-1])


@pytest.mark.parametrize("value", [0, 255, 256, 40000, 65535])
def test_a_channel_of_one_value(value: int) -> None:
    layout = ArrayLayout(dtype="uint16", channels=1)
    found = channel_statistics(layout, [_counted(np.full((3, 4, 1), value, np.uint16)).counts()])
    assert (found.mean, found.std) == ((float(value),), (0.0,))
    assert found.low[0] <= value <= found.high[0] < value + max(1, value / 128)
