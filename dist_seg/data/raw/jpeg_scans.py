"""Whether a JPEG's coded pixels are all there.

Where they are not, but an end marker follows (as tools write that mend a file that was cut off), libjpeg fills up with
grey, or in a progressive file leaves out detail, and warns; Pillow hands no warnings on.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BLOCK = 8
_GREY = 128
"""Of a block without coefficients."""
_MORE = bytes(np.random.default_rng(0).integers(0, 0xFF, 64, dtype=np.uint8))
"""Coded pixels of no meaning, without a marker."""


def ends_early(image: Image.Image, data: bytes, end: int) -> bool:
    """Decodes `image`, opened from the data and not yet loaded, in grey where that is faster.

    end: where the end marker begins. With more coded pixels before it, a whole picture stays the same, as nobody reads
    them; one that ends early becomes another. Raises what Pillow raises.
    """
    progressive = "progressive" in image.info
    found = _decoded(image)
    if not progressive and image.mode == "L" and not _ends_in_grey(found):
        return False
    with Image.open(io.BytesIO(data[:end] + _MORE + data[end:]), formats=("JPEG",)) as longer:
        return not np.array_equal(found, _decoded(longer))


def _decoded(image: Image.Image) -> NDArray[np.uint8]:
    # A third of the time is for colours. Of a progressive file they may be all that is missing.
    if "progressive" not in image.info:
        image.draft("L", image.size)
    return np.asarray(image)


def _ends_in_grey(picture_HW: NDArray[np.uint8]) -> bool:
    """As every picture of one scan does that ends early."""
    height, width = picture_HW.shape
    last = picture_HW[(height - 1) // _BLOCK * _BLOCK :, (width - 1) // _BLOCK * _BLOCK :]
    return bool((last == _GREY).all())
