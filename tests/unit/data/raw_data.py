"""Tiny raw data sets that tests write."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture(height: int = 20, width: int = 30, seed: int = 0) -> NDArray[np.uint8]:
    """(H, W, 3) noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_image(path: Path, pixels: NDArray[np.generic], palette: list[int] | None = None) -> None:
    """The array as a file of its suffix's kind, its folders made; with a palette of indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image = image.convert("P")
        image.putpalette(palette)
    image.save(path)


def write_pair(
    root: Path, stem: str, mask: NDArray[np.uint8] | None = None, *, palette: list[int] | None = None, seed: int = 0
) -> None:
    """`root/images/STEM.jpg` and `root/masks/STEM.png`; the mask is grey (H, W), or RGB (H, W, 3)."""
    mask = np.arange(600, dtype=np.uint8).reshape(20, 30) % 3 if mask is None else mask
    image_path, mask_path = root / "images" / f"{stem}.jpg", root / "masks" / f"{stem}.png"
    image_path.parent.mkdir(parents=True, exist_ok=True)
    mask_path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(*mask.shape[:2], seed)).save(image_path, quality=95)
    picture_of_mask = Image.fromarray(mask)
    if palette:
        picture_of_mask = picture_of_mask.convert("P")
        picture_of_mask.putpalette(palette)
    picture_of_mask.save(mask_path)
