"""Compact counts are what a tuple of them is."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.data.shards.counts import LARGEST, Counts


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
