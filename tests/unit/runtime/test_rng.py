import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.runtime.rng import generator, keyed_permutation, seed_of


@given(size=st.integers(1, 3000), key=st.integers(0, 5))
def test_keyed_permutation_is_a_bijection(size: int, key: int) -> None:
    image = keyed_permutation(np.arange(size), size, "test", key)
    assert sorted(image.tolist()) == list(range(size))


@given(size=st.integers(50, 500), data=st.data())
def test_keyed_permutation_of_one_position_equals_that_of_all(size: int, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, size - 1))
    alone = keyed_permutation(np.array([position]), size, "k")
    assert alone[0] == keyed_permutation(np.arange(size), size, "k")[position]


@given(pairs=st.lists(st.tuples(st.integers(1, 300), st.integers(0, 299)), min_size=1, max_size=30))
def test_keyed_permutation_of_mixed_sizes_equals_each_alone(pairs: list[tuple[int, int]]) -> None:
    sizes = np.array([size for size, _ in pairs])
    positions = np.array([position % size for size, position in pairs])
    alone = [keyed_permutation(positions[i : i + 1], sizes[i : i + 1], "k")[0] for i in range(len(pairs))]
    assert keyed_permutation(positions, sizes, "k").tolist() == alone


@pytest.mark.parametrize("power", [16, 256, 4096])
def test_keyed_permutation_of_neighbouring_sizes_is_a_bijection_of_each(power: int) -> None:
    positions = np.concatenate([np.arange(power), np.arange(power + 1)])
    sizes = np.repeat([power, power + 1], [power, power + 1])
    together = keyed_permutation(positions, sizes, "k")
    assert sorted(together[:power].tolist()) == list(range(power))
    assert sorted(together[power:].tolist()) == list(range(power + 1))


def test_keyed_permutation_is_the_one_that_recorded_runs_were_made_with() -> None:
    assert keyed_permutation(np.arange(10), 10, "k", 3).tolist() == [8, 1, 0, 4, 9, 5, 6, 3, 7, 2]
    assert keyed_permutation(np.array([0, 1, 99_999]), 100_000, "k", tweaks=7).tolist() == [15455, 88078, 8284]


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
