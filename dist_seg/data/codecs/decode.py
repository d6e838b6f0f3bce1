"""The reference decoder is PIL: a sample that it cannot decode counts as undecodable.

PIL's global limit on a picture's size does not apply. Packing limits the size, and a picture from a shard has already
been compared with the size in its index.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from dist_seg.data.codecs.headers import PNG_SIGNATURE, UndecodableError


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB from a JPEG or PNG, which may be grey. Raises `UndecodableError`."""
    return np.array(decode_picture(data, "RGB"))


def decode_picture(data: bytes, mode: str) -> Image.Image:
    with opened_picture(data) as image:
        if mode == "L" and image.mode != "L":
            raise UndecodableError(f"a mask must be 8-bit grey, this one is {image.mode}")
        return image.convert(mode)


@contextmanager
def opened_picture(data: bytes) -> Iterator[Image.Image]:
    kind = PngImageFile if data.startswith(PNG_SIGNATURE) else JpegImageFile
    try:
        with kind(io.BytesIO(data)) as image:
            yield image
    # PIL's readers raise all of these for damaged files.
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise UndecodableError(str(error) or type(error).__name__) from error
