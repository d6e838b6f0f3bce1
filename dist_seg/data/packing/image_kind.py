"""Pictures or arrays of one layout: all images of a data set are of one kind, which its first ones decide."""

from collections.abc import Sequence
from dataclasses import dataclass

from dist_seg.data.codecs.npy import ArrayLayout, Values
from dist_seg.data.raw.images import CheckedImage, check_image
from dist_seg.data.raw.source import AnySource, RawInstances, RawSample, SampleRef, load_sample
from dist_seg.errors import DataError

_VOTES, _LOOKED_AT = 20, 100
"""Of a listing's first samples: how many decide what kind the images are, and how many are tried for that."""


@dataclass(frozen=True, kw_only=True)
class ImageKind:
    """What all images of a data set have to be."""

    array: ArrayLayout | None
    """None for pictures."""
    where: str
    """What holds such images, as the subject of a sentence."""

    @property
    def images(self) -> str:
        """In words."""
        return f"images of {self.array}" if self.array else "pictures of 8-bit RGB or grey"


PICTURES = ImageKind(array=None, where="")


class OtherKindError(DataError):
    """An image of another kind than those of its data set."""


def find_kind(samples: Sequence[SampleRef], source: AnySource, max_pixels: int) -> ImageKind:
    """What most of the first samples that can be read are; of two kinds with as many, that of the earlier sample.

    Of the listing alone, so that every machine and every run finds the same. Where none of the first can be read, those
    that follow are tried, and where none can be read at all, what is wrong is said when they are packed.
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
    array = max(votes, key=lambda kind: len(votes[kind]))  # the first of those with the most
    return ImageKind(array=array, where=f"the data set (by most of its first images, such as {votes[array][0]})")


def checked_image(image: bytes | Values, sample: SampleRef, max_pixels: int, kind: ImageKind) -> CheckedImage:
    """Raises `DataError` for one that cannot be used, or is of another kind than those of the data set."""
    checked = check_image(image, sample.where, max_pixels)
    if checked.array != kind.array:
        raise OtherKindError(
            f"{sample.where}: is {checked.array or 'a picture of 8-bit RGB or grey'}, {kind.where} holds "
            f"{kind.images}; all must be alike: convert what differs, or pack it as a data set of its own"
        )
    return checked
