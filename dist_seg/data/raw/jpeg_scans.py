"""Whether all coded pixels of a JPEG are there.

Tools that repair a truncated file append an end marker. libjpeg then fills the missing part with grey, or leaves out
detail in a progressive file, and only warns. Pillow does not pass the warning on.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BLOCK = 8
_GREY = 128
"""The value of a block without coefficients."""
_MORE = bytes(np.random.default_rng(0).integers(0, 0xFF, 64, dtype=np.uint8))
"""Random coded pixels that contain no marker."""


def ends_early(image: Image.Image, data: bytes, end: int) -> bool:
    """Whether pixels are missing. Decodes `image`, opened from `data` but not loaded; in grey if that is faster.

    end: offset of the end marker. Random coded pixels are inserted before it: they leave a whole picture unchanged,
    because nothing reads them, but change one that ends early. Raises what Pillow raises.
    """
    progressive = "progressive" in image.info
    found = _decoded(image)
    if not progressive and image.mode == "L" and not _ends_in_grey(found):
        return False
    with Image.open(io.BytesIO(data[:end] + _MORE + data[end:]), formats=("JPEG",)) as longer:
        return not np.array_equal(found, _decoded(longer))


def _decoded(image: Image.Image) -> NDArray[np.uint8]:
    # Colours take a third of the time. In a progressive file only colours may be missing, so they are needed.
    if "progressive" not in image.info:
        image.draft("L", image.size)
    return np.asarray(image)


def _ends_in_grey(picture_HW: NDArray[np.uint8]) -> bool:
    """Whether the last block is grey, as in every picture of one scan that ends early."""
    height, width = picture_HW.shape
    last = picture_HW[(height - 1) // _BLOCK * _BLOCK :, (width - 1) // _BLOCK * _BLOCK :]
    return bool((last == _GREY).all())
