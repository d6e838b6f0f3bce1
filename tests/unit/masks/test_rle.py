"""Run lengths of masks, with pycocotools as the oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as reference

from dist_seg.masks.rle import boxes_and_areas, decode_mask, encode_masks, encode_placed

_SMALL = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(_SMALL)
def test_run_lengths_are_those_of_the_reference(mask: np.ndarray) -> None:
    [(rle, area)] = encode_masks(mask[None])
    assert rle == reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert area == mask.sum()
    assert np.array_equal(decode_mask(rle, *mask.shape), mask)


@given(_SMALL, st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_a_placed_mask_has_the_run_lengths_of_the_whole_picture(
    mask: np.ndarray, top: int, below: int, left: int, right: int
) -> None:
    whole = np.pad(mask, ((top, below), (left, right)))
    [(rle, _)] = encode_masks(whole[None])
    assert encode_placed(mask, top, left, *whole.shape) == rle


@given(_SMALL)
def test_boxes_and_areas_are_those_of_the_unpacked_masks(mask: np.ndarray) -> None:
    rles = [rle for rle, _ in encode_masks(np.stack([mask, ~mask]))]
    boxes, areas = boxes_and_areas(rles, *mask.shape)
    for one, box, area in zip((mask, ~mask), boxes, areas, strict=True):
        assert area == one.sum()
        if area:
            (rows, columns), (x, y, width, height) = np.nonzero(one), box
            assert (x, x + width) == (columns.min(), columns.max() + 1)
            assert (y, y + height) == (rows.min(), rows.max() + 1)


@pytest.mark.parametrize("rle", ["Rhm", "u[U", "\u4e00"])
def test_what_is_no_run_lengths_is_refused(rle: str) -> None:
    with pytest.raises(ValueError, match="RLE"):
        decode_mask(rle, 9, 9)
    with pytest.raises(ValueError, match="RLE"):
        boxes_and_areas([rle], 9, 9)
