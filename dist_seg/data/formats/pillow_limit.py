"""Pillow's own limit of an image's pixels, beside the one that the user sets."""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image


@contextmanager
def own_limit() -> Iterator[None]:
    """Pillow's limit is global, and fixed: step aside for the caller's."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
