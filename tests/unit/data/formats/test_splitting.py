"""Dividing into training and validation by group."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.data.formats.splitting import group_names, validation_groups
from dist_seg.errors import DataError, UserError

_groups = st.lists(st.text("abcdefg", min_size=1, max_size=2), min_size=2, max_size=200).filter(
    lambda groups: len(set(groups)) > 1
)


@given(_groups, st.floats(0.001, 0.999))
def test_neither_side_is_ever_empty(groups: list[str], fraction: float) -> None:
    chosen = validation_groups(groups, fraction)
    assert chosen
    assert chosen < set(groups)


@given(_groups, st.floats(0.001, 0.999), st.randoms())
def test_order_does_not_matter(groups: list[str], fraction: float, random: object) -> None:
    assert validation_groups(groups, fraction) == validation_groups(groups[::-1], fraction)


@given(st.integers(2, 500), st.floats(0.01, 0.99))
def test_single_samples_divide_to_the_sample(count: int, fraction: float) -> None:
    chosen = validation_groups([str(i) for i in range(count)], fraction)
    assert len(chosen) == min(count - 1, max(1, round(fraction * count)))


def test_a_group_larger_than_the_share_gives_way_to_smaller_ones() -> None:
    groups = ["large"] * 90 + ["b"] * 5 + ["c"] * 5
    assert validation_groups(groups, 0.1) == {"b", "c"}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 10.0, float("nan")])
def test_a_share_outside_0_and_1_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="must lie between 0 and 1"):
        validation_groups(["a", "b"], fraction)


def test_a_single_group_is_refused() -> None:
    with pytest.raises(DataError, match="all 3 samples are of one group"):
        validation_groups(["slide1"] * 3, 0.1)


def test_the_group_is_what_the_parentheses_caught() -> None:
    assert group_names(["slide12_a", "slide7_b"], r"^(slide\d+)_") == ["slide12", "slide7"]
    assert group_names(["a/x1", "b/x1"], r"^(\w+)/x(\d)") == ["a/1", "b/1"]
    assert group_names(["slide12_a"], r"slide\d") == ["slide1"]


def test_a_stem_that_does_not_match_is_named() -> None:
    with pytest.raises(DataError, match="does not match 'other'"):
        group_names(["slide1_a", "other"], r"^(slide\d+)_")


def test_a_bad_expression_is_named() -> None:
    with pytest.raises(UserError, match="no regular expression"):
        group_names(["a"], "(")
