"""Masks of several labels that may overlap: a layer for each label, as one picture in a shard.

`KEY.multi.png` is a grey 8-bit PNG of the layers one below the other, in the order of the classes: 1 where a pixel has
the label, 0 where it has not, 255 where it is not known.
"""

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import IGNORE_INDEX, decode_mask
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.png import encode_grey
from dist_seg.errors import DataError

ABSENT, PRESENT = 0, 1


def encode_labels(labels_KHW: NDArray[np.uint8]) -> bytes:
    """The PNG of K layers of 0, 1 and 255."""
    layers, height, width = labels_KHW.shape
    return encode_grey(labels_KHW.reshape(layers * height, width))


def check_values(layers: NDArray[np.uint8]) -> None:
    """Raises `UndecodableError` for a value that is neither 0 nor 1 nor 255."""
    wrong = (layers > PRESENT) & (layers != IGNORE_INDEX)
    if wrong.any():
        raise UndecodableError(f"layers of labels hold {int(layers[wrong][0])}; they may hold 0, 1 and {IGNORE_INDEX}")


def checked_labels(mask: object, where: str, class_names: tuple[str, ...]) -> NDArray[np.uint8]:
    """A reader's mask (K, H, W), of bool or of 0, 1 and 255, as uint8.

    Raises `DataError` naming `where`, and for a value that may not be there its label and position.
    """
    if not isinstance(mask, np.ndarray):
        raise DataError(f"{where}: the reader gave a {type(mask).__name__} for the mask; it must be a NumPy array")
    if mask.ndim != 3 or len(mask) != len(class_names) or mask.dtype.kind not in "bui":
        shape = "x".join(str(length) for length in mask.shape)
        raise DataError(
            f"{where}: the reader gave a mask of shape {shape} and type {mask.dtype}; of {len(class_names)} labels it "
            f"must be ({len(class_names)}, height, width) of bool or of an integer type"
        )
    wrong = (mask != ABSENT) & (mask != PRESENT) & (mask != IGNORE_INDEX)
    if wrong.any():
        label, y, x = np.unravel_index(int(wrong.argmax()), mask.shape)
        raise DataError(
            f"{where}: {mask[label, y, x]} at (x={x}, y={y}) of label {class_names[label]} ({int(wrong.sum())} such "
            f"pixels); a label's layer holds 1 where it is, 0 where it is not, {IGNORE_INDEX} where that is not known"
        )
    return np.ascontiguousarray(mask, np.uint8)


def decode_labels(data: bytes, num_labels: int) -> NDArray[np.uint8]:
    """(K, H, W) uint8 layers of labels: 0, 1 and 255. Raises `UndecodableError`."""
    layers = decode_mask(data)
    if len(layers) % num_labels:
        raise UndecodableError(f"{len(layers)} rows for {num_labels} labels, which must be as high as the image each")
    check_values(layers)
    return layers.reshape(num_labels, -1, layers.shape[1])
