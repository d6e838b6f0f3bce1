"""Masks as pictures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.drawing import IGNORED_COLOR, colorize, contact_sheet, default_palette, overlay

_PALETTE = ((10, 20, 30), (200, 100, 0))


@given(st.integers(0, 255), st.integers(0, 255))
def test_colours_differ_and_do_not_depend_on_their_number(few: int, many: int) -> None:
    few, many = sorted((few, many))
    palette = default_palette(many)
    assert len(set(palette)) == many
    assert default_palette(few) == palette[:few]
    assert all(0 <= part <= 255 for color in palette for part in color)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_ids_become_their_colours(dtype: type) -> None:
    colored = colorize(np.array([[0, 1, 255, 7]], dtype), _PALETTE)
    assert colored.dtype == np.uint8
    assert colored.tolist() == [[[10, 20, 30], [200, 100, 0], [*IGNORED_COLOR], [*IGNORED_COLOR]]]


def test_negative_and_large_ids_are_shown_as_ignored() -> None:
    assert colorize(np.array([[-1, 1000]]), _PALETTE).tolist() == [[[*IGNORED_COLOR], [*IGNORED_COLOR]]]


def test_overlay_mixes_by_alpha_and_leaves_ignored_pixels() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    mixed = overlay(image, np.array([[0, 1, 255]]), _PALETTE, alpha=0.25)
    assert mixed.tolist() == [[[78, 80, 82], [125, 100, 75], [100, 100, 100]]]


def test_overlay_takes_grey_images() -> None:
    assert (
        overlay(np.zeros((2, 2), np.uint8), np.zeros((2, 2), int), _PALETTE, alpha=1).tolist()
        == [[[10, 20, 30]] * 2] * 2
    )


def test_overlay_refuses_another_size() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        overlay(np.zeros((2, 2), np.uint8), np.zeros((2, 3), int), _PALETTE)


@pytest.mark.parametrize("shape", [(1, 1), (5, 400, 3), (400, 5, 3), (240, 240)])
def test_a_sheet_takes_pictures_of_any_size(shape: tuple[int, ...]) -> None:
    picture = np.zeros(shape, np.uint8)
    sheet = contact_sheet(
        [[picture, picture]] * 3, ["one", "two" * 200, ""], title="t" * 500, legend=[("a" * 99, (1, 2, 3))]
    )
    assert sheet.mode == "RGB"
    assert sheet.width < 600


def test_an_empty_sheet_is_a_sheet() -> None:
    assert contact_sheet([], []).width > 0
