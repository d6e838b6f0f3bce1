"""Objects drawn over their image, and the sheet of a data set of instances."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.codecs.annotations import ImageAnnotations, ObjectAnnotation
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.object_layers import draw_annotations
from dist_seg.data.inspection.summary import inspect
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.opened import open_data
from dist_seg.masks.rle import encode_masks
from dist_seg.storage.object_store import open_storage

_PALETTE = ((10, 20, 30), (200, 0, 0))
_HEIGHT, _WIDTH = 40, 60
_GREY = np.full((_HEIGHT, _WIDTH, 3), 100, np.uint8)


def _object(number: int, top: int, left: int, side: int, *, class_id: int = 0, crowd: bool = False) -> ObjectAnnotation:
    mask = np.zeros((1, _HEIGHT, _WIDTH), bool)
    mask[0, top : top + side, left : left + side] = True
    return ObjectAnnotation(
        id=number,
        class_id=class_id,
        crowd=crowd,
        area=side**2,
        bbox=(left, top, side, side),
        rle=encode_masks(mask)[0][0],
        pixels=side**2,
        layer=0,
    )


def _annotations(*objects: ObjectAnnotation) -> ImageAnnotations:
    return ImageAnnotations(image_id=1, file_name="x", height=_HEIGHT, width=_WIDTH, objects=objects)


def _changed(drawn: NDArray[np.uint8]) -> NDArray[np.bool_]:
    changed: NDArray[np.bool_] = (drawn != 100).any(axis=2)
    return changed


def test_the_outline_is_in_the_class_s_colour_and_around_the_object_alone() -> None:
    drawn = draw_annotations(_GREY, _annotations(_object(1, 10, 20, 8, class_id=1)), _PALETTE)
    outline = (drawn == _PALETTE[1]).all(axis=2)
    expected = np.zeros((_HEIGHT, _WIDTH), bool)
    expected[10:18, 20:28] = True
    assert np.array_equal(_changed(drawn), expected)
    expected[11:17, 21:27] = False
    assert np.array_equal(outline, expected)


def test_neighbours_of_one_class_are_filled_in_different_colours() -> None:
    drawn = draw_annotations(_GREY, _annotations(_object(1, 5, 5, 9), _object(2, 5, 14, 9)), _PALETTE)
    assert not np.array_equal(drawn[9, 9], drawn[9, 18])


def test_a_small_object_on_a_large_one_is_seen_in_either_order() -> None:
    small, large = _object(1, 12, 12, 6), _object(2, 2, 2, 30)
    for objects in ((small, large), (large, small)):
        drawn = draw_annotations(_GREY, _annotations(*objects), _PALETTE)
        assert not np.array_equal(drawn[15, 15], drawn[25, 25])


def test_a_crowd_is_hatched_in_white() -> None:
    drawn = draw_annotations(_GREY, _annotations(_object(1, 4, 4, 30, crowd=True)), _PALETTE)
    assert (drawn[4, 4] == 255).all()
    inside = drawn[6:30, 6:30]
    assert 0 < _changed(inside).mean() < 0.5
    assert (inside >= 100).all()


@pytest.mark.parametrize(("height", "width"), [(20, 30), (80, 120), (13, 22)])
def test_objects_lie_where_they_are_at_any_scale(height: int, width: int) -> None:
    picture = np.full((height, width, 3), 100, np.uint8)
    drawn = draw_annotations(picture, _annotations(_object(1, 10, 30, 20)), _PALETTE)
    rows, columns = (np.flatnonzero(_changed(drawn).any(axis=axis)) for axis in (1, 0))
    assert abs(rows[0] / height - 10 / 40) <= 1 / height and abs((rows[-1] + 1) / height - 30 / 40) <= 1 / height
    assert abs(columns[0] / width - 30 / 60) <= 1 / width and abs((columns[-1] + 1) / width - 50 / 60) <= 1 / width


def test_a_mask_of_another_size_is_named() -> None:
    wrong = replace(_object(7, 0, 0, 2), rle=encode_masks(np.ones((1, 9, 9), bool))[0][0])
    with pytest.raises(UndecodableError, match="the mask of object 7"):
        draw_annotations(_GREY, _annotations(wrong), _PALETTE)


def test_the_sheet_of_instances_shows_outlines_of_their_classes(instance_shards: Path, tmp_path: Path) -> None:
    inspect(open_data(instance_shards), out_png=tmp_path / "sheet.png", num_images=12)
    palette = load_manifest(open_storage(instance_shards)).palette
    with Image.open(tmp_path / "sheet.png") as sheet:
        counts = {color: count for count, color in sheet.convert("RGB").getcolors(2**20) or []}
    swatch = 16 * 16  # of the legend
    assert all(counts.get(color, 0) > swatch for color in palette)
