"""Masks of class ids: one number per pixel, stored as `KEY.seg.png`, a grey 8-bit PNG of the image's size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.decode import decode_picture
from dist_seg.data.codecs.encoded import (
    UNKNOWN,
    DrawnTarget,
    EncodedSample,
    EncodedTarget,
    Ids,
    Region,
    TargetClasses,
    TargetContents,
    ValueMap,
)
from dist_seg.data.codecs.headers import UndecodableError, check_mask
from dist_seg.data.codecs.png import encode_grey, value_counts
from dist_seg.errors import DataError
from dist_seg.masks.drawing import colorize
from dist_seg.masks.palette import IGNORED_COLOR, Rgb

IGNORE_INDEX = 255
MAX_CLASSES = 255
"""Class ids are 8 bits, and 255 is the ignore index."""


@dataclass(frozen=True, kw_only=True)
class ClassIds:
    """The masks of semantic segmentation: every pixel has one class or is ignored."""

    classes: TargetClasses

    has_objects: ClassVar[bool] = False
    overlaps: ClassVar[bool] = False
    layered: ClassVar[bool] = False
    bits: ClassVar[Literal[8]] = 8
    batch_dtype: ClassVar[Literal["int64"]] = "int64"
    drawn_how: ClassVar[str] = ""

    @property
    def border(self) -> int:
        return self.classes.ignore_index

    @property
    def num_known_ids(self) -> int:
        return self.classes.num_classes

    @property
    def class_map(self) -> ValueMap | None:
        new_ids = self.classes.new_ids
        return None if new_ids is None else ValueMap(table=new_ids)

    def read(self, members: Sequence[bytes], height: int, width: int) -> None:
        check_class_id_png(members[0], height, width)

    def decode(self, sample: EncodedSample, region: Region | None = None) -> NDArray[np.uint8]:
        """(H, W) or (h, w) uint8."""
        ids = decode_class_ids(sample.target)
        if region is not None:
            y, x, h, w = region
            ids = ids[y : y + h, x : x + w]
        self.check(ids, sample)
        return ids

    def check(self, ids: Ids, sample: EncodedSample) -> None:
        """An id must belong to a class that the data set was packed with, or be its ignore index."""
        num_classes = self.classes.num_packed
        if int(ids.max(initial=0)) < num_classes:
            return
        wrong = (ids >= num_classes) & (ids != self.classes.packed_ignore_index)
        if wrong.any():
            raise UndecodableError(f"class id {int(ids[wrong][0])}, for {num_classes} classes")

    def contents(self, sample: EncodedSample) -> TargetContents:
        ids, num_classes = self.decode(sample), self.classes.num_packed
        layers = ids[None].astype(np.int16)
        layers[layers >= num_classes] = UNKNOWN
        return TargetContents(layers=layers, class_pixels=value_counts(ids)[:num_classes])

    def draw(
        self,
        sample: EncodedSample,
        picture: NDArray[np.uint8],
        palette: Sequence[Rgb],
        shrunk: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    ) -> DrawnTarget:
        """The mask beside the picture. Ids that belong to no class are drawn like ignored pixels."""
        return DrawnTarget(picture=shrunk(colorize(decode_class_ids(sample.target), palette, self.border)))

    def legend(self, classes: Sequence[tuple[str, Rgb]], drawn: Sequence[DrawnTarget]) -> list[tuple[str, Rgb]]:
        return [*classes, ("ignored", IGNORED_COLOR)]

    def check_array(self, mask: object, where: str, class_names: Sequence[str]) -> None:
        """(H, W) of an integer type or bool."""
        if not isinstance(mask, np.ndarray):
            raise DataError(f"{where}: the reader gave a {type(mask).__name__} for the mask; it must be a NumPy array")
        if mask.ndim != 2 or mask.dtype.kind not in "bui":
            shape = "x".join(str(length) for length in mask.shape)
            raise DataError(
                f"{where}: the reader gave a mask of shape {shape} and type {mask.dtype}; it must be (height, width) "
                "class ids of an integer type or bool"
            )

    def checked(
        self, mask: NDArray[np.integer] | NDArray[np.bool_], where: str, class_names: Sequence[str]
    ) -> NDArray[np.uint8]:
        return checked_class_ids(mask, where, len(class_names), self.classes.packed_ignore_index)

    def encode(self, mask: NDArray[np.uint8]) -> EncodedTarget:
        """mask: (H, W) class ids, or the ignore index."""
        counts = value_counts(mask)
        num_classes = self.classes.num_packed
        return EncodedTarget(
            data=encode_class_ids(mask),
            suffix="seg.png",
            class_pixels=tuple(counts[:num_classes].tolist()),
            ignored_pixels=int(counts[self.classes.packed_ignore_index]),
            classes=tuple(np.flatnonzero(counts[:num_classes]).tolist()),
        )


def encode_class_ids(mask: NDArray[np.uint8]) -> bytes:
    """(H, W) class ids as a grey 8-bit PNG."""
    return encode_grey(mask)


def check_class_id_png(mask: bytes, height: int, width: int) -> None:
    """Raises `UndecodableError` unless the mask can be one of class ids for an image of that size."""
    check_mask(mask, height, width, bits=8, layers=range(1, 2), what="an 8-bit grey PNG of class ids")


def decode_class_ids(data: bytes) -> NDArray[np.uint8]:
    """(H, W) uint8 class ids from a grey PNG. Raises `UndecodableError`."""
    return np.array(decode_picture(data, "L"))


def checked_class_ids(
    mask: NDArray[np.integer] | NDArray[np.bool_], where: str, num_classes: int, ignore_index: int
) -> NDArray[np.uint8]:
    """The (H, W) mask as uint8. Raises `DataError` that names the first value out of range and its position."""
    if mask.dtype == np.uint8:
        others = value_counts(mask)
        others[:num_classes] = others[ignore_index] = 0
        if not others.any():
            return np.asarray(mask, np.uint8)
    wrong = ((mask < 0) | (mask >= num_classes)) & (mask != ignore_index)
    if wrong.any():
        y, x = np.unravel_index(int(wrong.argmax()), mask.shape)
        raise DataError(
            f"{where}: class id {mask[y, x]} at (x={x}, y={y}) ({int(wrong.sum())} such pixels); the data set has "
            f"{num_classes} classes, 0 to {num_classes - 1}, and {ignore_index} for ignored pixels"
        )
    return mask.astype(np.uint8)
