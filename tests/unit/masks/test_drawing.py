"""Masks as pictures."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.masks.drawing import DrawnObject, colorize, contact_sheet, draw_objects, object_colors, overlay
from dist_seg.masks.palette import IGNORED_COLOR, IGNORED_LINES, default_palette
from dist_seg.masks.rle import encode_masks

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


def _drawn(box: tuple[int, int, int, int], size: tuple[int, int], label: str = "") -> DrawnObject:
    x, y, w, h = box
    mask = np.zeros(size, np.bool_)
    mask[y : y + h, x : x + w] = True
    [(rle, _)] = encode_masks(mask[None])
    return DrawnObject(box=box, rle=rle, label=label)


def test_an_object_is_tinted_inside_and_outlined_at_its_border() -> None:
    grey = np.full((60, 80, 3), 100, np.uint8)
    drawn = np.asarray(draw_objects(grey, [_drawn((10, 20, 40, 30), (60, 80))], alpha=0.5))
    [color] = object_colors(1)
    assert drawn.shape == grey.shape
    assert drawn[35, 30].tolist() == np.rint(50 + 0.5 * np.array(color)).tolist()
    assert all(drawn[y, x].tolist() == list(color) for y, x in ((20, 10), (49, 49), (35, 10), (20, 30)))
    outside = np.ones((60, 80), np.bool_)
    outside[20:50, 10:50] = False
    assert (drawn[outside] == 100).all()


@pytest.mark.parametrize("shade", [0, 100, 255])
def test_an_ignored_object_is_hatched_on_any_picture_and_has_no_colour(shade: int) -> None:
    image = np.full((60, 80, 3), shade, np.uint8)
    thing = replace(_drawn((10, 20, 40, 30), (60, 80)), ignored=True)
    drawn = np.asarray(draw_objects(image, [thing]))
    assert (drawn == drawn[..., :1]).all()  # grey
    inside = drawn[21:49, 11:49, 0].astype(int)
    assert 0.1 < (abs(inside - shade) > 100).mean() < 0.4
    assert drawn[20, 10].tolist() == list(IGNORED_LINES)


def test_an_object_over_an_ignored_one_is_not_hatched() -> None:
    image = np.full((60, 60, 3), 100, np.uint8)
    first, second = _drawn((10, 10, 40, 40), (60, 60)), replace(_drawn((0, 0, 60, 60), (60, 60)), ignored=True)
    drawn = np.asarray(draw_objects(image, [first, second]))
    assert np.array_equal(drawn[10:50, 10:50], np.asarray(draw_objects(image, [first]))[10:50, 10:50])


def test_of_overlapping_objects_the_first_is_on_top() -> None:
    grey = np.zeros((60, 60, 3), np.uint8)
    first, second = _drawn((0, 0, 40, 40), (60, 60)), _drawn((20, 20, 40, 40), (60, 60))
    drawn = np.asarray(draw_objects(grey, [first, second], alpha=1.0))
    colors = object_colors(2)
    assert drawn[30, 30].tolist() == list(colors[0])
    assert drawn[50, 50].tolist() == list(colors[1])


@pytest.mark.parametrize(("side", "factor"), [(40, 1), (14, 2), (3, 4)])
def test_pictures_of_small_objects_are_enlarged(side: int, factor: int) -> None:
    grey = np.zeros((64, 96, 3), np.uint8)
    drawn = draw_objects(grey, [_drawn((8, 8, side, side), (64, 96), "0.97")])
    assert drawn.size == (96 * factor, 64 * factor)


def test_a_picture_is_enlarged_until_long_labels_have_room() -> None:
    grey = np.zeros((64, 96, 3), np.uint8)
    plain = draw_objects(grey, [_drawn((8, 8, 40, 40), (64, 96))])
    labelled = draw_objects(grey, [_drawn((8, 8, 40, 40), (64, 96), "triangle 0.97")])
    assert (plain.width, labelled.width) == (96, 192)


def test_a_label_at_the_right_border_is_drawn_as_a_whole() -> None:
    def pixels_above(x: int) -> int:
        drawn = draw_objects(np.zeros((60, 200, 3), np.uint8), [_drawn((x, 20, 20, 30), (60, 200), "1.00")])
        return int((np.asarray(drawn)[: 19 * drawn.height // 60] > 0).any(axis=2).sum())

    assert pixels_above(100) == pixels_above(180) > 0


def test_a_large_picture_is_not_enlarged_beyond_what_can_be_looked_at() -> None:
    size = (40, 2000)
    assert draw_objects(np.zeros((*size, 3), np.uint8), [_drawn((8, 8, 5, 5), size)]).size == (2000, 40)


def test_a_label_changes_pixels_only_where_it_has_room() -> None:
    size, box = (80, 2000), (30, 30, 40, 40)  # too large to be enlarged
    grey = np.zeros((*size, 3), np.uint8)
    plain = np.asarray(draw_objects(grey, [_drawn(box, size)]))
    assert not np.array_equal(np.asarray(draw_objects(grey, [_drawn(box, size, "0.97")])), plain)
    much = "a class with a name that is far too long"
    assert np.array_equal(np.asarray(draw_objects(grey, [_drawn(box, size, much)])), plain)


def test_a_picture_without_objects_is_itself() -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(draw_objects(image, [])), image)
