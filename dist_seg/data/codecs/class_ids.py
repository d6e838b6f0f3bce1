"""Masks of class ids: one number a pixel, as a grey 8-bit PNG in a shard."""

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.decode import decode_picture
from dist_seg.data.codecs.encoded import EncodedSample
from dist_seg.data.codecs.headers import UndecodableError

IGNORE_INDEX = 255
MAX_CLASSES = 255
"""Class ids are 8 bits, and 255 is the ignore index."""


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """(H, W) uint8 class ids of a grey PNG. Raises `UndecodableError`."""
    return np.array(decode_picture(data, "L"))


def check_class_ids(ids: NDArray[np.uint8], encoded: EncodedSample) -> None:
    """Raises `UndecodableError` for an id, as it was packed, that is no class's."""
    if not encoded.num_classes or int(ids.max(initial=0)) < encoded.num_classes:
        return
    wrong = (ids >= encoded.num_classes) & (ids != encoded.ignore_index)
    if wrong.any():
        raise UndecodableError(f"class id {int(ids[wrong][0])}, for {encoded.num_classes} classes")
