"""Masks of several labels that may overlap: a layer for each label, as one picture in a shard.

`KEY.multi.png` is a grey 8-bit PNG of the layers one below the other, in the order of the classes: 1 where a pixel has
the label, 0 where it does not, 255 where it is unknown.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import IGNORE_INDEX, decode_class_ids
from dist_seg.data.codecs.encoded import (
    UNKNOWN,
    DrawnTarget,
    EncodedSample,
    EncodedTarget,
    Ids,
    LayerMap,
    Region,
    TargetClasses,
    TargetContents,
)
from dist_seg.data.codecs.headers import UndecodableError, check_mask
from dist_seg.data.codecs.png import encode_grey
from dist_seg.errors import DataError
from dist_seg.masks.drawing import overlay_labels
from dist_seg.masks.palette import Rgb

ABSENT, PRESENT = 0, 1


@dataclass(frozen=True, kw_only=True)
class LabelLayers:
    """The masks of multi-label segmentation: a pixel has any number of labels."""

    classes: TargetClasses

    has_objects: ClassVar[bool] = False
    overlaps: ClassVar[bool] = True
    layered: ClassVar[bool] = True
    bits: ClassVar[Literal[8]] = 8
    batch_dtype: ClassVar[Literal["uint8"]] = "uint8"
    num_known_ids: ClassVar[None] = None
    drawn_how: ClassVar[str] = ""

    @property
    def border(self) -> int:
        return self.classes.ignore_index

    @property
    def class_map(self) -> LayerMap | None:
        new_ids = self.classes.new_ids
        if new_ids is None:
            return None
        new = new_ids[: self.classes.num_packed].tolist()
        labels = range(self.classes.num_classes)
        return LayerMap(sources=tuple(tuple(old for old, to in enumerate(new) if to == label) for label in labels))

    def read(self, members: Sequence[bytes], height: int, width: int) -> None:
        check_mask(
            members[0],
            height,
            width,
            bits=8,
            layers=range(self.classes.num_packed, self.classes.num_packed + 1),
            what="an 8-bit grey PNG of layers of labels",
            wanted=f", which must hold {self.classes.num_packed} layers of labels one below the other",
        )

    def decode(self, sample: EncodedSample, region: Region | None = None) -> NDArray[np.uint8]:
        """(K, H, W) or (K, h, w) uint8: 0, 1 and 255."""
        labels_KHW = decode_labels(sample.target, self.classes.num_packed)
        if region is None:
            return labels_KHW
        y, x, h, w = region
        return labels_KHW[:, y : y + h, x : x + w]

    def check(self, ids: Ids, sample: EncodedSample) -> None:
        """Layers may hold 0, 1 and 255."""
        _check_values(ids)

    def contents(self, sample: EncodedSample) -> TargetContents:
        labels_KHW = self.decode(sample)
        layers = labels_KHW.astype(np.int16)
        layers[labels_KHW == IGNORE_INDEX] = UNKNOWN
        return TargetContents(layers=layers, class_pixels=(labels_KHW == PRESENT).sum(axis=(1, 2), dtype=np.int64))

    def draw(
        self,
        sample: EncodedSample,
        picture: NDArray[np.uint8],
        palette: Sequence[Rgb],
        shrunk: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    ) -> DrawnTarget:
        """The labels over the picture, drawn before it is shrunk."""
        return DrawnTarget(picture=shrunk(np.asarray(overlay_labels(picture, self.decode(sample) == PRESENT, palette))))

    def legend(self, classes: Sequence[tuple[str, Rgb]], drawn: Sequence[DrawnTarget]) -> list[tuple[str, Rgb]]:
        return list(classes)

    def check_array(self, mask: object, where: str, class_names: Sequence[str]) -> None:
        """(K, H, W) of an integer type or bool."""
        if not isinstance(mask, np.ndarray):
            raise DataError(f"{where}: the reader gave a {type(mask).__name__} for the mask; it must be a NumPy array")
        if mask.ndim != 3 or len(mask) != len(class_names) or mask.dtype.kind not in "bui":
            shape = "x".join(str(length) for length in mask.shape)
            raise DataError(
                f"{where}: the reader gave a mask of shape {shape} and type {mask.dtype}; with {len(class_names)} "
                f"labels it must be ({len(class_names)}, height, width) and bool or an integer type"
            )

    def checked(
        self, mask: NDArray[np.integer] | NDArray[np.bool_], where: str, class_names: Sequence[str]
    ) -> NDArray[np.uint8]:
        """mask: (K, H, W) of bool or of 0, 1 and 255."""
        wrong = (mask != ABSENT) & (mask != PRESENT) & (mask != IGNORE_INDEX)
        if wrong.any():
            label, y, x = (int(at) for at in np.unravel_index(int(wrong.argmax()), mask.shape))
            raise DataError(
                f"{where}: {mask[label, y, x]} at (x={x}, y={y}) of label {class_names[label]} ({int(wrong.sum())} "
                "such pixels); a layer must hold 1 where a pixel has the label, 0 where it does not and "
                f"{IGNORE_INDEX} where that is unknown"
            )
        return np.ascontiguousarray(mask, np.uint8)

    def encode(self, mask: NDArray[np.uint8]) -> EncodedTarget:
        """mask: (K, H, W) of 0, 1 and 255. Unknown pixels are counted over all layers together."""
        counts = np.count_nonzero(mask == PRESENT, axis=(1, 2))
        return EncodedTarget(
            data=encode_labels(mask),
            suffix="multi.png",
            class_pixels=tuple(counts.tolist()),
            ignored_pixels=int(np.count_nonzero(mask == IGNORE_INDEX)),
            classes=tuple(np.flatnonzero(counts).tolist()),
        )


def encode_labels(labels_KHW: NDArray[np.uint8]) -> bytes:
    """The PNG of K layers of 0, 1 and 255."""
    layers, height, width = labels_KHW.shape
    return encode_grey(labels_KHW.reshape(layers * height, width))


def decode_labels(data: bytes, num_labels: int) -> NDArray[np.uint8]:
    """(K, H, W) uint8 layers of labels: 0, 1 and 255. Raises `UndecodableError`."""
    layers = decode_class_ids(data)
    if len(layers) % num_labels:
        raise UndecodableError(f"{len(layers)} rows for {num_labels} labels; every layer must be as high as the image")
    _check_values(layers)
    return layers.reshape(num_labels, -1, layers.shape[1])


def _check_values(layers: Ids) -> None:
    wrong = (layers > PRESENT) & (layers != IGNORE_INDEX)
    if wrong.any():
        raise UndecodableError(f"layers of labels hold {int(layers[wrong][0])}; they may hold 0, 1 and {IGNORE_INDEX}")
