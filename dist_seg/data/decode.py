"""The reference decoder: PIL, and what it cannot decode cannot be decoded."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.batch import EncodedSample
from dist_seg.data.headers import UndecodableError


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a JPEG or PNG, grey ones included. Raises `UndecodableError`."""
    return np.array(_decode(data, "RGB"))


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """(H, W) uint8 class ids of a grey PNG. Raises `UndecodableError`."""
    return np.array(_decode(data, "L"))


def why_undecodable(encoded: EncodedSample) -> str | None:
    """None where the sample can be decoded."""
    parts = (("image", decode_image, encoded.image), ("mask", decode_mask, encoded.target))
    for role, decode, data in parts:
        try:
            decode(data)
        except UndecodableError as error:
            return f"{role}: {error}"
    return None


def _decode(data: bytes, mode: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if mode == "L" and image.mode != "L":
                raise UndecodableError(f"a mask must be 8-bit grey, this one is {image.mode}")
            return image.convert(mode)
    # What PIL raises for damaged files, by its formats' readers.
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise UndecodableError(str(error) or type(error).__name__) from error
