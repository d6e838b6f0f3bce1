"""Images that are not 8-bit RGB: arrays of 8 or 16 bits with any number of channels, as `.npy` members of a shard.

A data set holds either pictures (JPEG and PNG) or arrays, all of one type and number of channels.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.headers import UndecodableError, check_picture

Values = NDArray[np.uint8] | NDArray[np.uint16]
"""(H, W, C)."""
ArrayType = Literal["uint8", "uint16"]

MAX_CHANNELS = 256
NPY_HEADER_BYTES = 128
"""Bytes of the header of every array that is written here, so that pixels always begin at the same offset."""
_MAGIC = b"\x93NUMPY\x01\x00"


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayLayout:
    """Type and channels, which all images of a data set share."""

    dtype: ArrayType
    channels: int

    def __str__(self) -> str:
        return f"{self.bits} bits and {self.channels} channel{'s' * (self.channels != 1)}"

    @property
    def bits(self) -> int:
        return 16 if self.dtype == "uint16" else 8

    @property
    def largest(self) -> int:
        """The largest value that a pixel can have."""
        return (1 << self.bits) - 1

    def num_bytes(self, height: int, width: int) -> int:
        """Bytes of an image of that size, as a member of a shard."""
        return NPY_HEADER_BYTES + height * width * self.channels * self.bits // 8


def layout_of(values: Values) -> ArrayLayout:
    """values: (H, W, C)."""
    return ArrayLayout(dtype="uint16" if values.dtype == np.uint16 else "uint8", channels=values.shape[2])


def encode_npy(values: Values) -> bytes:
    """The array (H, W, C) as a file for `numpy.load`: format 1.0, rows first, little-endian."""
    height, width, _ = values.shape
    layout = layout_of(values)
    return _header(layout, height, width) + np.ascontiguousarray(values, _stored(layout)).tobytes()


def check_npy(data: bytes, layout: ArrayLayout, height: int, width: int) -> None:
    """Raises `UndecodableError` unless the bytes are what `encode_npy` writes for an array of this layout and size."""
    header = _header(layout, height, width)
    if not data.startswith(_MAGIC):
        raise UndecodableError("not an array in NumPy's format 1.0")
    if not data.startswith(header):
        written = data[len(_MAGIC) + 2 : NPY_HEADER_BYTES].decode("latin-1").strip()
        wanted = header[len(_MAGIC) + 2 :].decode().strip()
        raise UndecodableError(f"an array of {written}, its index and the manifest say {wanted}")
    if len(data) != layout.num_bytes(height, width):
        raise UndecodableError(f"an array of {len(data)} bytes, must be {layout.num_bytes(height, width)}")


def check_image(image: bytes, array: ArrayLayout | None, height: int, width: int) -> None:
    """Raises `UndecodableError` unless the image is of this size: a picture, or an array of the layout `array`."""
    if array is None:
        check_picture(image, height, width)
        return
    try:
        check_npy(image, array, height, width)
    except UndecodableError as error:
        raise UndecodableError(error.reason, where="image") from error


def decode_npy(data: bytes, layout: ArrayLayout, height: int, width: int) -> Values:
    """(H, W, C), read-only and without a copy. Raises `UndecodableError` as `check_npy` does."""
    check_npy(data, layout, height, width)
    values: Values = np.frombuffer(data, _stored(layout), offset=NPY_HEADER_BYTES)
    return values.reshape(height, width, layout.channels)


def rgb_view(values: Values, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An array (H, W, C) for people to look at: its first three channels as (H, W, 3) RGB, or the first one as grey.

    low, high: (C,), the values to show as black and white.
    """
    shown = [0, 1, 2] if values.shape[2] >= 3 else [0, 0, 0]
    span = np.maximum(high - low, 1.0)[shown].astype(np.float32)
    scaled = (values[..., shown].astype(np.float32) - low[shown].astype(np.float32)) * (255 / span)
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _header(layout: ArrayLayout, height: int, width: int) -> bytes:
    """Our own header: NumPy's padding depends on its version, and so would the bytes of a shard."""
    kind = "<u2" if layout.dtype == "uint16" else "|u1"
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({height}, {width}, {layout.channels}), }}"
    length = NPY_HEADER_BYTES - len(_MAGIC) - 2
    return _MAGIC + length.to_bytes(2, "little") + text.encode().ljust(length - 1) + b"\n"


def _stored(layout: ArrayLayout) -> str:
    return "<u2" if layout.dtype == "uint16" else "|u1"
