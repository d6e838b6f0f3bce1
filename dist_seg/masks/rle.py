"""Masks as COCO's compressed run lengths: the form in which data, metrics and predictions exchange objects."""

from collections.abc import Sequence

import numpy as np
from faster_coco_eval.core import mask as coco_masks
from numpy.typing import NDArray


def encode_masks(masks_NHW: NDArray[np.bool_]) -> list[tuple[str, int]]:
    """The run lengths and the number of pixels of each mask."""
    if not len(masks_NHW):
        return []
    # COCO's runs go down the columns.
    encoded = coco_masks.encode(np.asfortranarray(masks_NHW.transpose(1, 2, 0).astype(np.uint8)))
    areas = masks_NHW.sum(axis=(1, 2), dtype=np.int64)
    return [(counts_text(rle["counts"]), int(area)) for rle, area in zip(encoded, areas, strict=True)]


def decode_mask(rle: str, height: int, width: int) -> NDArray[np.bool_]:
    """The mask (height, width). Raises `ValueError` for run lengths that are invalid or not of that size."""
    try:
        decoded: NDArray[np.uint8] = coco_masks.decode({"size": [height, width], "counts": rle})
    except RuntimeError as error:  # if the runs end too early
        raise ValueError(str(error)) from error
    return decoded.astype(np.bool_)


def boxes_and_areas(rles: Sequence[str], height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Boxes x, y, width, height (N, 4) and pixels (N,) of masks in a picture of that size, without decoding them.

    Raises `ValueError` for run lengths that are invalid or not of that size.
    """
    if not rles:
        return np.zeros((0, 4)), np.zeros(0, np.int64)
    encoded = [{"size": [height, width], "counts": rle} for rle in rles]
    try:
        boxes, areas = coco_masks.toBbox(encoded), coco_masks.area(encoded)
    except RuntimeError as error:  # if the runs end too early
        raise ValueError(str(error)) from error
    return np.asarray(boxes, np.float64), np.asarray(areas, np.int64)


def encode_placed(mask_HW: NDArray[np.bool_], top: int, left: int, height: int, width: int) -> str:
    """The run lengths of a mask whose first pixel lies at (top, left) of a picture of `height` x `width`."""
    rows, columns = mask_HW.shape
    assert 0 <= top <= height - rows and 0 <= left <= width - columns
    changes = np.diff(np.pad(mask_HW.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    column, start = (changes == 1).nonzero()
    end = (changes == -1).nonzero()[1]
    first = (left + column) * height + top
    # A run that continues at the top of the next column is one run: its end and the next start cancel.
    ends, how_often = np.unique(np.concatenate([first + start, first + end]), return_counts=True)
    runs = np.diff(np.concatenate([[0], ends[how_often == 1], [height * width]])).tolist()
    if not runs[-1]:
        runs.pop()
    encoded = coco_masks.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return counts_text(encoded["counts"])


def mask_extent(mask_HW: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns from the mask's first to its last pixel; empty slices for an empty mask."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def counts_text(counts: bytes | str) -> str:
    """Run lengths as text: the library gives bytes or text."""
    return counts.decode() if isinstance(counts, bytes) else counts
