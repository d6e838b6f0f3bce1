"""The reference decoder: PIL, and what it cannot decode cannot be decoded.

PIL's own limit on a picture's size, which is global, does not apply: how large pictures may be was settled when they
were packed, and what comes from a shard has been compared with the size that stands in its index.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from dist_seg.data.arrays import Values, decode_npy
from dist_seg.data.headers import PNG_SIGNATURE, UndecodableError
from dist_seg.data.label_layers import check_values

if TYPE_CHECKING:
    from dist_seg.data.batch import EncodedSample  # with it comes torch, which looking at data does without


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a JPEG or PNG, grey ones included. Raises `UndecodableError`."""
    return np.array(_decode(data, "RGB"))


def decode_sample(encoded: "EncodedSample") -> Values:
    """A sample's image: (H, W, 3) uint8 RGB, or an array (H, W, C). Raises `UndecodableError`."""
    if encoded.array is None:
        return decode_image(encoded.image)
    return decode_npy(encoded.image, encoded.array, encoded.height, encoded.width)


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """(H, W) uint8 class ids of a grey PNG. Raises `UndecodableError`."""
    return np.array(_decode(data, "L"))


def decode_instances(data: bytes, height: int) -> NDArray[np.int16]:
    """(L, height, W) int16 layers of object ids of a grey 16-bit PNG that holds them one below the other.

    Raises `UndecodableError`.
    """
    with _opened(data) as image:
        if not image.mode.startswith("I") or image.height % height:
            raise UndecodableError(f"layers must be 16-bit grey, each {height} rows: {image.mode}, {image.height} rows")
        ids = np.array(image)
    if int(ids.max(initial=0)) > np.iinfo(np.int16).max:
        raise UndecodableError(f"object id {int(ids.max())}; ids reach {np.iinfo(np.int16).max}")
    return ids.astype(np.int16).reshape(-1, height, ids.shape[1])


def decode_labels(data: bytes, num_labels: int) -> NDArray[np.uint8]:
    """(K, H, W) uint8 layers of labels: 0, 1 and 255. Raises `UndecodableError`."""
    layers = decode_mask(data)
    if len(layers) % num_labels:
        raise UndecodableError(f"{len(layers)} rows for {num_labels} labels, which must be as high as the image each")
    check_values(layers)
    return layers.reshape(num_labels, -1, layers.shape[1])


def decode_target(encoded: "EncodedSample") -> NDArray[np.uint8] | NDArray[np.int16]:
    """Class ids (H, W) uint8, of multi-label data layers (K, H, W) uint8, or of a sample with annotations object ids
    (L, H, W) int16.

    Raises `UndecodableError`, also for an object id without an annotation.
    """
    if encoded.num_labels:
        return decode_labels(encoded.target, encoded.num_labels)
    if encoded.annotations is None:
        return decode_mask(encoded.target)
    ids = decode_instances(encoded.target, encoded.height)
    check_object_ids(ids, len(encoded.annotations.objects))
    return ids


def check_object_ids(ids: NDArray[np.int16], num_objects: int) -> None:
    """Raises `UndecodableError` for an id that no annotation belongs to."""
    if int(ids.max(initial=0)) > num_objects or int(ids.min(initial=0)) < 0:
        raise UndecodableError(f"layers with object ids {ids.min()} to {ids.max()}, for {num_objects} annotations")


def check_class_ids(ids: NDArray[np.uint8], encoded: "EncodedSample") -> None:
    """Raises `UndecodableError` for an id, as it was packed, that is no class's."""
    if not encoded.num_classes or int(ids.max(initial=0)) < encoded.num_classes:
        return
    wrong = (ids >= encoded.num_classes) & (ids != encoded.ignore_index)
    if wrong.any():
        raise UndecodableError(f"class id {int(ids[wrong][0])}, for {encoded.num_classes} classes")


def why_undecodable(encoded: "EncodedSample") -> str | None:
    """None where the sample can be decoded."""
    role = "image"
    try:
        decode_sample(encoded)
        role = "mask"
        target = decode_target(encoded)
        if target.dtype == np.uint8:
            check_class_ids(target.view(np.uint8), encoded)
    except UndecodableError as error:
        return f"{role}: {error}"
    return None


def _decode(data: bytes, mode: str) -> Image.Image:
    with _opened(data) as image:
        if mode == "L" and image.mode != "L":
            raise UndecodableError(f"a mask must be 8-bit grey, this one is {image.mode}")
        return image.convert(mode)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    kind = PngImageFile if data.startswith(PNG_SIGNATURE) else JpegImageFile
    try:
        with kind(io.BytesIO(data)) as image:
            yield image
    # What PIL raises for damaged files, by its formats' readers.
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise UndecodableError(str(error) or type(error).__name__) from error
