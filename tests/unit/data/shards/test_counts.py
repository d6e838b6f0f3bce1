"""Compact counts are what a tuple of them is, and samples are found by their number among all shards."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.data.shards.counts import LARGEST, Counts, locate_samples, spread_samples


@given(st.lists(st.integers(0, LARGEST)))
def test_counts_are_the_numbers_they_were_made_of(numbers: list[int]) -> None:
    counts = Counts(numbers)
    assert list(counts) == numbers
    assert counts == tuple(numbers) == Counts(counts)
    assert hash(counts) == hash(tuple(numbers))
    assert counts[:2] == tuple(numbers[:2])
    assert pickle.loads(pickle.dumps(counts)) == counts
    assert counts != (*numbers, 0)


@pytest.mark.parametrize(("largest", "size"), [(255, 1), (256, 2), (65_536, 4), (2**32, 8)])
def test_a_number_takes_what_the_largest_needs(largest: int, size: int) -> None:
    more = len(pickle.dumps(Counts([largest] * 2000))) - len(pickle.dumps(Counts([largest] * 1000)))
    assert 1000 * size <= more < 1000 * size + 20


@given(samples=st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_every_sample_is_located_in_its_shard(samples: list[int]) -> None:
    expected = [(shard, index) for shard, count in enumerate(samples) for index in range(count)]
    ends = np.cumsum(samples).astype(np.uint8)
    shards, indices = locate_samples(ends, np.arange(len(expected)))
    assert list(zip(shards.tolist(), indices.tolist(), strict=True)) == expected


def test_samples_are_spread_evenly_and_none_comes_twice() -> None:
    shards, indices = spread_samples([4, 0, 6], 5)
    assert list(zip(shards.tolist(), indices.tolist(), strict=True)) == [(0, 0), (0, 2), (2, 0), (2, 2), (2, 4)]
    shards, indices = spread_samples([1, 2], 9)
    assert list(zip(shards.tolist(), indices.tolist(), strict=True)) == [(0, 0), (1, 0), (1, 1)]
    assert not len(spread_samples([], 3)[0])
