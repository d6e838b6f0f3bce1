"""What readers of files have in common: how large a picture may be, and what is done with what is bad."""

from dataclasses import dataclass

from dist_seg.data.headers import MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class RawReading:
    """How the files of a raw data set become samples."""

    max_pixels: int = MAX_PIXELS
    """Of an image or mask; a larger one is bad."""
    skip_bad: bool = False
    """What does not fit together, such as an image without a mask or a mask without an image, is a bad sample instead
    of an error."""
