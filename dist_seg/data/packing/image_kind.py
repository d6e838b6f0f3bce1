"""The kind of a data set's images: pictures, or arrays of one layout. The first images decide it for all."""

from collections.abc import Sequence
from dataclasses import dataclass

from dist_seg.data.codecs.npy import ArrayLayout, Values
from dist_seg.data.raw.images import CheckedImage, check_image
from dist_seg.data.raw.source import AnySource, RawInstances, RawSample, SampleRef, load_sample
from dist_seg.errors import DataError

_VOTES, _LOOKED_AT = 20, 100
"""How many of the first samples decide the kind, and how many are tried to find them."""


@dataclass(frozen=True, kw_only=True)
class ImageKind:
    """What all images of a data set must be."""

    array: ArrayLayout | None
    """Layout of array images; None for pictures."""
    where: str
    """Names the data set with such images, as the subject of a sentence."""

    @property
    def description(self) -> str:
        """The images in words."""
        return f"images of {self.array}" if self.array else "pictures of 8-bit RGB or grey"


PICTURES = ImageKind(array=None, where="")


class OtherKindError(DataError):
    """An image whose kind is not that of its data set."""


def find_kind(samples: Sequence[SampleRef], source: AnySource, max_pixels: int) -> ImageKind:
    """The kind of most of the first samples that can be read. If two kinds tie, the earlier sample decides.

    Depends on the listing alone, so every machine and every run finds the same kind. If none of the first samples can
    be read, the following ones are tried. If none can be read at all, packing them will say what is wrong.
    """
    votes: dict[ArrayLayout | None, list[str]] = {}
    for number, sample in enumerate(samples):
        if votes and number >= _LOOKED_AT:
            break
        try:
            raw: RawSample | RawInstances = load_sample(source, sample)
            array = check_image(raw.image, sample.where, max_pixels).array
        except DataError:
            continue
        votes.setdefault(array, []).append(sample.where)
        if len(votes[array]) > _VOTES // 2 or sum(map(len, votes.values())) == _VOTES:
            break
    if not votes:
        return PICTURES
    array = max(votes, key=lambda kind: len(votes[kind]))  # of a tie, the first
    return ImageKind(array=array, where=f"the data set (by most of its first images, such as {votes[array][0]})")


def checked_image(image: bytes | Values, sample: SampleRef, max_pixels: int, kind: ImageKind) -> CheckedImage:
    """The image after its checks. Raises `DataError` if it cannot be used or is not of the data set's kind."""
    checked = check_image(image, sample.where, max_pixels)
    if checked.array != kind.array:
        raise OtherKindError(
            f"{sample.where}: is {checked.array or 'a picture of 8-bit RGB or grey'}, but {kind.where} holds "
            f"{kind.description}; all must be alike: convert what differs, or pack it as a data set of its own"
        )
    return checked
