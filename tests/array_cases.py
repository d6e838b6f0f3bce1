"""What the tests of arrays share: images of many channels and 16 bits, and the files that hold them."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.formats.images import encode_mask

Array = NDArray[np.uint8] | NDArray[np.uint16]
BRIGHT = 9000
"""What the classes of `bands` add to the noise below it."""


def noise(dtype: str, channels: int, height: int = 20, width: int = 30, seed: int = 0) -> Array:
    """(H, W, C) of every value that the type has."""
    high = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, high, (height, width, channels), dtype=dtype, endpoint=True)


def tiff(values: Array, *, pages: bool = False, planar: bool = False, **options: object) -> bytes:
    """(H, W, C) as the file's bytes: interleaved, as planes of one page, or as pages. Needs tifffile."""
    import tifffile

    file = io.BytesIO()
    options = {"photometric": "minisblack", "metadata": None, **options}
    if pages or planar:
        arranged = np.ascontiguousarray(values.transpose(2, 0, 1))
        planarconfig = "separate" if planar and values.shape[2] > 1 else None
        tifffile.imwrite(file, arranged, planarconfig=planarconfig, **options)
    else:
        arranged = values if values.shape[2] > 1 else values[..., 0]
        tifffile.imwrite(file, arranged, planarconfig="contig" if values.shape[2] > 1 else None, **options)
    return file.getvalue()


def png(values: Array) -> bytes:
    """(H, W, C) of 16 bits: grey, grey and alpha, RGB or RGBA, by its channels. Needs imagecodecs."""
    import imagecodecs

    return bytes(imagecodecs.png_encode(values if values.shape[2] > 1 else values[..., 0]))


def bands(seed: int, height: int = 48, width: int = 64) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """(H, W, 8) noise in which only channels 4 and 7 tell three classes apart, and the mask (H, W)."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for class_id in (1, 2):
        y, x = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[y : y + height // 2, x : x + width // 2] = class_id
    values = rng.integers(0, 2000, (height, width, 8), dtype=np.uint16)
    values[..., 4] += BRIGHT * (mask == 1).astype(np.uint16)
    values[..., 7] += BRIGHT * (mask == 2).astype(np.uint16)
    return values, mask


def write_folder(root: Path, images: Sequence[bytes], masks: Sequence[NDArray[np.uint8]], suffix: str = "tif") -> None:
    """`root/images/0.tif` and `root/masks/0.png`, and so on."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        (root / "images" / f"{i}.{suffix}").write_bytes(image)
        (root / "masks" / f"{i}.png").write_bytes(encode_mask(mask))
