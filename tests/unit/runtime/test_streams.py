import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.runtime.streams import generator, keyed_permutation, seed_of


@given(size=st.integers(1, 3000), key=st.integers(0, 5))
def test_keyed_permutation_is_a_bijection(size: int, key: int) -> None:
    image = keyed_permutation(np.arange(size), size, "test", key)
    assert sorted(image.tolist()) == list(range(size))


@given(size=st.integers(50, 500), data=st.data())
def test_keyed_permutation_of_one_position_equals_that_of_all(size: int, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, size - 1))
    alone = keyed_permutation(np.array([position]), size, "k")
    assert alone[0] == keyed_permutation(np.arange(size), size, "k")[position]


def test_keyed_permutation_spreads_neighbours() -> None:
    image = keyed_permutation(np.arange(10_000), 10_000, "spread")
    correlation = np.corrcoef(np.arange(10_000), image)[0, 1]
    assert abs(correlation) < 0.05
    assert np.mean(np.abs(np.diff(image))) == pytest.approx(10_000 / 3, rel=0.05)


def test_tweaks_give_different_permutations() -> None:
    positions = np.arange(100)
    first, second = (keyed_permutation(positions, 100, "k", tweaks=tweak) for tweak in (0, 1))
    assert np.mean(first == second) < 0.1


def test_position_outside_the_range_is_refused() -> None:
    with pytest.raises(IndexError):
        keyed_permutation(np.array([5]), 5, "k")


def test_generator_depends_on_every_part_of_the_key() -> None:
    draws = {generator(*key).random() for key in [("a", 1), ("a", 2), ("b", 1), ("a1",), ("a", "1")]}
    assert len(draws) == 5
    assert generator("a", 1).random() == generator("a", 1).random()


def test_seed_of_fits_torch() -> None:
    assert all(0 <= seed_of("x", i) < 2**63 for i in range(100))
