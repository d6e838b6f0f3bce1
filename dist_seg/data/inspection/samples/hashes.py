"""Small grey pictures of images, and perceptual hashes that find likely copies.

A hash has 256 bits: ImageHash's `phash`, both `dhash`es and `whash`, 64 bits each. Encoded or scaled copies differ in a
few bits, copies that are cropped by 5% in 10 to 50, unrelated images in about 120.
"""

from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_WORDS = 4
THUMBNAIL_SIDE = 32
"""Side in pixels of the picture that is kept of every image."""
_SIDE = 64
"""Side in pixels of the picture that is hashed."""
_WAVELET_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The traits by which one image is recognised."""

    thumbnail: NDArray[np.uint8]
    """(32, 32) grey: the whole image, whatever its shape."""
    words: NDArray[np.uint64]
    """(4,): `phash`, `dhash`, `dhash_vertical`, `whash`."""
    mirrored: NDArray[np.uint64]
    """The same for the mirror image."""


def fingerprint(grey: Image.Image) -> Fingerprint:
    """The fingerprint of a picture of mode L."""
    small = grey.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    thumbnail = small.reduce(_SIDE // THUMBNAIL_SIDE)
    mirror = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Fingerprint(thumbnail=np.asarray(thumbnail), words=_hash(small), mirrored=_hash(mirror))


def _hash(picture: Image.Image) -> NDArray[np.uint64]:
    parts = (
        imagehash.phash(picture),
        imagehash.dhash(picture),
        imagehash.dhash_vertical(picture),
        # `remove_max_haar_ll` would subtract one number from all, which the comparison with the median does anyway.
        imagehash.whash(picture, image_scale=_WAVELET_SIDE, remove_max_haar_ll=False),
    )
    bits = np.concatenate([part.hash.ravel() for part in parts])
    return np.packbits(bits).view(np.uint64)
