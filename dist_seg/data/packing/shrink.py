"""Shrinks samples whose longer side is above a limit, while packing.

Images are averaged (Lanczos, without aliasing). Masks are sampled at the centres of the new pixels, so that no new
class id appears. An object keeps at least one pixel: the new pixel that holds most of it.
"""

import io
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.codecs.npy import Values, decode_npy, encode_npy
from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.raw.images import CheckedImage, encode_image
from dist_seg.data.raw.pillow_limit import own_limit
from dist_seg.masks.rle import decode_mask, encode_masks

Size = tuple[int, int]
"""Height and width."""


def shrunk_size(height: int, width: int, max_side: int | None) -> Size | None:
    """The size with the longer side at the limit and the same proportions; None if the image is within the limit."""
    longer = max(height, width)
    if max_side is None or longer <= max_side:
        return None
    return max(1, round(height * max_side / longer)), max(1, round(width * max_side / longer))


def shrink_image(image: CheckedImage, size: Size) -> CheckedImage:
    """Shrink an image, keeping its format. A JPEG gets quality 95 and no chroma subsampling."""
    height, width = size
    if image.array:
        values = decode_npy(image.data, image.array, image.height, image.width)
        return replace(image, data=encode_npy(_shrunk_values(values, size)), height=height, width=width)
    with own_limit(), Image.open(io.BytesIO(image.data)) as decoded:
        smaller = decoded.resize((width, height), Image.Resampling.LANCZOS)
    data = encode_image(np.asarray(smaller), image.suffix)
    return replace(image, data=data, height=height, width=width)


def _shrunk_values(values: Values, size: Size) -> Values:
    """(H, W, C); each channel is shrunk in float, because Pillow cannot resize 16-bit values."""
    height, width = size
    smaller = np.dstack(
        [
            np.asarray(
                Image.fromarray(values[..., channel].astype(np.float32)).resize(
                    (width, height), Image.Resampling.LANCZOS
                )
            )
            for channel in range(values.shape[2])
        ]
    )
    return cast(Values, np.rint(smaller).clip(0, np.iinfo(values.dtype).max).astype(values.dtype))


def shrink_mask(mask: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Shrink a mask (H, W) or layers (K, H, W) to height and width by the nearest value."""
    return np.ascontiguousarray(mask[(..., *_places(mask.shape[-2:], size))])


def shrink_object(raw: RawObject, height: int, width: int, size: Size) -> RawObject:
    """Shrink an object of an image of `height` x `width`. Its area and box become those of the smaller mask.

    Raises ValueError for a mask that does not have that size.
    """
    mask = decode_mask(raw.rle, height, width)
    smaller = mask[_places((height, width), size)]
    if mask.any() and not smaller.any():
        rows, columns = np.nonzero(mask)
        places = rows * size[0] // height * size[1] + columns * size[1] // width
        smaller.ravel()[np.bincount(places).argmax()] = True
    ((rle, _),) = encode_masks(smaller[None])
    return replace(raw, rle=rle, area=None, bbox=None)


def _places(shape: tuple[int, ...], size: Size) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the old pixels that hold the centres of the new ones."""
    centres = [(np.arange(new) * 2 + 1) * old // (2 * new) for old, new in zip(shape, size, strict=True)]
    rows, columns = np.ix_(*centres)
    return rows, columns
