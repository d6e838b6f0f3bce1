"""Masks as COCO's compressed run lengths, in which data, metrics and predictions speak of instances."""

import numpy as np
from faster_coco_eval.core import mask as coco_masks
from numpy.typing import NDArray


def encode_masks(masks_NHW: NDArray[np.bool_]) -> list[tuple[str, int]]:
    """The run lengths of each mask, and its pixels."""
    if not len(masks_NHW):
        return []
    # COCO's runs go down the columns.
    encoded = coco_masks.encode(np.asfortranarray(masks_NHW.transpose(1, 2, 0).astype(np.uint8)))
    areas = masks_NHW.sum(axis=(1, 2), dtype=np.int64)
    return [(_text(rle["counts"]), int(area)) for rle, area in zip(encoded, areas, strict=True)]


def decode_mask(rle: str, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width)."""
    decoded: NDArray[np.uint8] = coco_masks.decode({"size": [height, width], "counts": rle})
    return decoded.astype(np.bool_)


def _text(counts: bytes | str) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts
