"""Dividing into training and validation by group."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.data.raw.splitting import Dividing, check_divided_groups, divide, group_names, validation_cutoff
from dist_seg.errors import DataError, UserError

_groups = st.lists(st.text("abcdefg", min_size=1, max_size=2), min_size=2, max_size=200).filter(
    lambda groups: len(set(groups)) > 1
)


def validation_groups(groups: Sequence[str], fraction: float) -> frozenset[str]:
    splits = divide(Path("images"), groups, Dividing(val=fraction)).splits(groups)
    return frozenset(group for group, split in zip(groups, splits, strict=True) if split == "val")


@given(_groups, st.floats(0.001, 0.999))
def test_neither_side_is_ever_empty(groups: list[str], fraction: float) -> None:
    chosen = validation_groups(groups, fraction)
    assert chosen
    assert chosen < set(groups)


@given(_groups, st.floats(0.001, 0.999), st.randoms())
def test_order_does_not_matter(groups: list[str], fraction: float, random: object) -> None:
    assert validation_groups(groups, fraction) == validation_groups(groups[::-1], fraction)


def test_about_the_share_is_chosen() -> None:
    groups = [str(i) for i in range(2000)]
    for fraction in (0.05, 0.1, 0.5, 0.9):
        # Three standard deviations. The hash is fixed, and so is the outcome.
        assert abs(len(validation_groups(groups, fraction)) / 2000 - fraction) < 3 * (0.25 / 2000) ** 0.5


@given(st.sets(st.text(max_size=4), min_size=30, max_size=60), st.text(max_size=4), st.floats(0.4, 0.6))
def test_a_group_that_comes_moves_no_other(groups: set[str], new: str, fraction: float) -> None:
    before = validation_groups(sorted(groups), fraction)
    after = validation_groups(sorted(groups | {new}), fraction)
    assert before - {new} == after - {new}


def test_a_group_that_goes_moves_no_other() -> None:
    groups = [f"slide{i}" for i in range(40)]
    before = validation_groups(groups, 0.2)
    for gone in groups:
        assert validation_groups([group for group in groups if group != gone], 0.2) == before - {gone}


@given(_groups, st.floats(0.001, 0.5), st.floats(0.5, 0.999))
def test_a_larger_share_keeps_what_a_smaller_one_chose(groups: list[str], small: float, large: float) -> None:
    assert validation_groups(groups, small) <= validation_groups(groups, large)


@pytest.mark.parametrize(("fraction", "count"), [(1e-9, 1), (1 - 1e-9, 4)])
def test_an_empty_side_is_given_one_group(fraction: float, count: int) -> None:
    assert len(validation_groups(["a", "b", "c", "d", "e"], fraction)) == count


def test_a_group_on_both_sides_of_a_given_division_is_named() -> None:
    check_divided_groups(["a", "b", "a"], ["train", "val", "train"])
    with pytest.raises(DataError, match="group 'a' has samples in train and in val"):
        check_divided_groups(["a", "b", "a"], ["train", "val", "val"])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 10.0, float("nan")])
def test_a_share_outside_0_and_1_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="must lie between 0 and 1"):
        validation_cutoff(["a", "b"], fraction)


def test_a_single_group_is_refused() -> None:
    with pytest.raises(DataError, match="all 3 samples are in one group"):
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


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train", "val", "test"], ["train", "val", "test"]),
        (["training", "validation"], ["train", "val"]),
        (["Train", "VALID"], ["train", "val"]),
        (["train2017", "val2017"], ["train", "val"]),
        (["train", "valid", "val"], ["train", "val", "val"]),
    ],
)
def test_folders_named_after_splits_are_these(folders: list[str], splits: list[str]) -> None:
    stems = [f"{folder}/below/{name}" for folder in folders for name in ("a", "b")]
    expected = [split for split in splits for _ in range(2)]
    assert divide(Path("images"), stems).splits(stems) == expected


@pytest.mark.parametrize("folders", [["train"], ["test2017", "testing"], ["trains", "val"], ["train-1", "values"]])
def test_other_folders_are_no_division(folders: list[str]) -> None:
    stems = [f"{folder}/{number}" for folder in folders for number in range(40)]
    assert set(divide(Path("images"), stems).splits(stems)) == {"train", "val"}
    assert set(divide(Path("images"), stems, Dividing(val=0)).splits(stems)) == {"train"}


@pytest.mark.parametrize("stray", ["stray", "extra/stray", "train"])
def test_an_image_beside_the_splits_is_refused_by_name(stray: str) -> None:
    """Dividing all of them again would put training images into validation."""
    stems = [stray, "train/a", "train/b", "val/c"]
    with pytest.raises(
        DataError, match=rf"^images: train and val hold the splits, but {stray} lies outside them; move"
    ):
        divide(Path("images"), stems)
    with pytest.raises(DataError, match=rf"but {stray} and 1 more lie outside them; move"):
        divide(Path("images"), [*stems, "other"])
    assert set(divide(Path("images"), stems, Dividing(split="test")).splits(stems)) == {"test"}
    assert set(divide(Path("images"), stems, Dividing(val=0.5)).splits(stems)) == {"train", "val"}


@given(
    st.sets(st.integers(0, 99), min_size=2, max_size=20), st.sets(st.integers(0, 99), min_size=1), st.floats(0.01, 0.9)
)
def test_what_is_added_is_divided_as_the_data_set_was(first: set[int], more: set[int], val: float) -> None:
    """A patient who is already in the data set stays on the same side, whatever is added."""
    by_patient = Dividing(val=val, group_by=r"^p\d+")
    before = divide(Path("images"), [f"p{i}-a" for i in first], by_patient)
    sides = dict(zip(first, before.splits([f"p{i}-a" for i in first]), strict=True))
    stems = [f"p{i}-b" for i in more]
    for given_again in (Dividing(), by_patient, Dividing(split="train")):
        after = divide(Path("images"), stems, given_again.as_before(before.record, "packed"))
        added = dict(zip(more, after.splits(stems), strict=True))
        assert all(added[i] == sides[i] for i in first & more)
        assert after.record == before.record


def test_another_division_of_what_is_added_is_refused() -> None:
    record = divide(Path("images"), ["p1", "p2", "p3"], Dividing(val=0.25, group_by=r"\d")).record
    with pytest.raises(
        UserError, match=r"^packed: was divided with --val 0\.25; append with the same, or leave --val out"
    ):
        Dividing(val=0.1).as_before(record, "packed")
    with pytest.raises(UserError, match="with --split train; append with the same"):
        Dividing(split="test").as_before(record, "packed")
    plain = divide(Path("images"), ["1", "2"]).record
    with pytest.raises(UserError, match="was divided without --group-by"):
        Dividing(group_by="x").as_before(plain, "packed")


def test_what_is_added_to_an_unknown_division_goes_by_its_hash_alone() -> None:
    stems = [f"image{i}" for i in range(200)]
    whole = divide(Path("images"), stems).splits(stems)
    adding = Dividing().as_before(None, "packed")
    alone = [divide(Path("images"), [stem], adding).splits([stem])[0] for stem in stems]
    assert alone == whole and set(alone) == {"train", "val"}
