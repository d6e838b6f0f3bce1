"""Small grey pictures of images, and the perceptual hashes by which likely copies are found.

A hash is 256 bits: ImageHash's `phash`, both `dhash`es and `whash`, 64 bits each. Of re-encoded and rescaled copies a
few bits differ, of those cropped by 5% some 10 to 50, of images that have nothing in common about 120.
"""

from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_WORDS = 4
THUMBNAIL_SIDE = 32
"""Of the picture that is kept of every image, in pixels."""
_SIDE = 64
"""Of the picture that is hashed."""
_WAVELET_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What one image is recognised by."""

    thumbnail: NDArray[np.uint8]
    """(32, 32) grey, the whole image whatever its shape."""
    words: NDArray[np.uint64]
    """(4,): `phash`, `dhash`, `dhash_vertical`, `whash`."""
    mirrored: NDArray[np.uint64]
    """The same of the image's mirror image."""


def fingerprint(grey: Image.Image) -> Fingerprint:
    """Of a picture of mode L."""
    small = grey.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    thumbnail = small.reduce(_SIDE // THUMBNAIL_SIDE)
    mirror = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Fingerprint(thumbnail=np.asarray(thumbnail), words=_hash(small), mirrored=_hash(mirror))


def _hash(picture: Image.Image) -> NDArray[np.uint64]:
    parts = (
        imagehash.phash(picture),
        imagehash.dhash(picture),
        imagehash.dhash_vertical(picture),
        # What `remove_max_haar_ll` takes away is one number for all, which the comparison with the median does too.
        imagehash.whash(picture, image_scale=_WAVELET_SIDE, remove_max_haar_ll=False),
    )
    bits = np.concatenate([part.hash.ravel() for part in parts])
    return np.packbits(bits).view(np.uint64)
