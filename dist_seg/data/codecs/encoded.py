"""Samples as they are stored in their shards, what a kind of target has to offer, and why a sample cannot be used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.annotations import ImageAnnotations, ObjectAnnotation
from dist_seg.data.codecs.npy import ArrayLayout
from dist_seg.masks.palette import Rgb

UNKNOWN = -1
"""In the layers of `TargetContents`: a pixel about which the target says nothing."""

Ids = NDArray[np.uint8] | NDArray[np.int16]
"""A decoded target: class ids (H, W) uint8, layers of labels (K, H, W) uint8, layers of object ids (L, H, W) int16."""
Region = tuple[int, int, int, int]
"""y, x, height and width of a part of a picture."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetClasses:
    """The classes of one packed data set, and what they are in a run."""

    num_classes: int
    """In the run."""
    ignore_index: int
    num_packed: int
    """The number of classes that the data set was packed with."""
    packed_ignore_index: int
    new_ids: NDArray[np.uint8] | None = None
    """(256,) the run's class for each packed one, the ignore index for an ignored one; None where ids do not change."""

    @classmethod
    def as_packed(cls, num_classes: int, ignore_index: int) -> "TargetClasses":
        """Classes that a run takes as they were packed."""
        return cls(
            num_classes=num_classes,
            ignore_index=ignore_index,
            num_packed=num_classes,
            packed_ignore_index=ignore_index,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueMap:
    """Brings a decoded target to a run's classes by replacing every value."""

    table: NDArray[np.uint8]
    """(256,) the new value for each old one."""


@dataclass(frozen=True, kw_only=True)
class LayerMap:
    """Brings decoded layers of labels to a run's classes by merging layers."""

    sources: tuple[tuple[int, ...], ...]
    """For each new layer the old ones that it merges. A layer without any is unknown everywhere."""


@dataclass(frozen=True, kw_only=True)
class TargetContents:
    """A decoded target, as inspection measures it."""

    layers: NDArray[np.int16]
    """(L, H, W) ids whose changes are outlines, or `UNKNOWN`: one layer of classes, one of 0 and 1 for each label, or
    up to three of objects."""
    class_pixels: NDArray[np.int64]
    """(classes,) pixels of each class; for objects the pixels of its objects in the layers."""
    objects: tuple[ObjectAnnotation, ...] | None = None
    """None for targets without objects."""
    boxes: NDArray[np.float64] | None = None
    """(N, 4) x, y, width and height of the objects' exact masks."""
    areas: NDArray[np.int64] | None = None
    """(N,) pixels of the objects' exact masks."""


@dataclass(frozen=True, kw_only=True)
class DrawnTarget:
    """A target as a picture."""

    picture: NDArray[np.uint8]
    """(h, w, 3) RGB."""
    remark: str = ""
    """What its caption adds."""
    classes: frozenset[int] = frozenset()
    """Classes of its objects."""


@dataclass(frozen=True, kw_only=True)
class EncodedTarget:
    """A target on its way into a shard."""

    data: bytes
    """The PNG."""
    suffix: str
    """What follows the key and a dot in the PNG's name."""
    class_pixels: tuple[int, ...]
    """Pixels of each class; for objects those in the layers, without crowds."""
    ignored_pixels: int
    classes: tuple[int, ...]
    """The classes that the target holds."""
    annotations: ImageAnnotations | None = None
    """The objects, which are stored beside the PNG."""


class TargetKind(Protocol):
    """One kind of target: how it is stored in the shards of one data set, and what a run makes of it.

    Each task has one implementation, in a module of its own that works on NumPy arrays alone; `targets` chooses it.
    """

    @property
    def has_objects(self) -> bool:
        """Whether samples have annotated objects."""
        ...

    @property
    def overlaps(self) -> bool:
        """Whether a mask may give one pixel several classes. Objects have one class each, so theirs do not."""
        ...

    @property
    def border(self) -> int:
        """The value of a decoded target outside its picture."""
        ...

    @property
    def layered(self) -> bool:
        """Whether the PNG holds layers one below the other."""
        ...

    @property
    def bits(self) -> Literal[8, 16]:
        """Bits of the PNG's pixels."""
        ...

    @property
    def batch_dtype(self) -> Literal["uint8", "int32", "int64"]:
        """The type of the targets of a batch."""
        ...

    @property
    def num_known_ids(self) -> int | None:
        """The number of ids that a loss can take; other ids are set to `border`. None where a loss takes every id."""
        ...

    @property
    def class_map(self) -> ValueMap | LayerMap | None:
        """What brings a decoded target to the run's classes; None where it does not change."""
        ...

    @property
    def drawn_how(self) -> str:
        """What the title of a sheet says about the drawings; empty for nothing."""
        ...

    def read(self, members: Sequence[bytes], height: int, width: int) -> ImageAnnotations | None:
        """Checks a sample's members, the image's left out, without decoding them; returns its objects if it has any.

        Objects have the run's classes. Raises `UndecodableError` for what is not a target of an image of that size.
        """
        ...

    def decode(self, sample: "EncodedSample", region: Region | None = None) -> Ids:
        """The target, or a region of it, in the packed classes. Raises `UndecodableError`, also for what `check` finds.

        Values outside the region are checked only where they are part of a layer.
        """
        ...

    def check(self, ids: Ids, sample: "EncodedSample") -> None:
        """Raises `UndecodableError` for a decoded value that the sample must not hold."""
        ...

    def contents(self, sample: "EncodedSample") -> TargetContents:
        """What inspection measures. Raises `UndecodableError` as `decode` does."""
        ...

    def draw(
        self,
        sample: "EncodedSample",
        picture: NDArray[np.uint8],
        palette: Sequence[Rgb],
        shrunk: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    ) -> DrawnTarget:
        """The target for people to look at. picture: (H, W, 3), the sample's image. shrunk: makes a picture small.

        Raises `UndecodableError` for what cannot be drawn.
        """
        ...

    def legend(self, classes: Sequence[tuple[str, Rgb]], drawn: Sequence[DrawnTarget]) -> Sequence[tuple[str, Rgb]]:
        """What the colours of drawn targets mean. classes: name and colour of every class."""
        ...


class MaskKind(TargetKind, Protocol):
    """A kind of target that readers give as one array."""

    def check_array(self, mask: object, where: str, class_names: Sequence[str]) -> None:
        """Raises `DataError` that names `where` unless a reader's mask is an array of the kind's shape and type."""
        ...

    def checked(
        self, mask: NDArray[np.integer] | NDArray[np.bool_], where: str, class_names: Sequence[str]
    ) -> NDArray[np.uint8]:
        """A reader's mask as uint8. Raises `DataError` that names the first wrong value and its position."""
        ...

    def encode(self, mask: NDArray[np.uint8]) -> EncodedTarget:
        """mask: as `checked` returns it."""
        ...


@dataclass(frozen=True, kw_only=True)
class EncodedSample:
    """One sample as it is stored in its shard."""

    key: str
    image: bytes
    """An encoded image (JPEG or PNG, 8 bits, RGB or grey), or an array as a `.npy` file."""
    target: bytes
    """The grey PNG of the target."""
    height: int
    width: int
    kind: TargetKind
    """What the target is."""
    annotations: ImageAnnotations | None = None
    """The sample's objects, in the run's classes. Parsed when the sample is read, so that faults are found before
    anything is decoded."""
    array: ArrayLayout | None = None
    """Layout of an array image; None for a picture."""


@dataclass(frozen=True, kw_only=True)
class BadSample:
    """A sample that could not be used, and why."""

    key: str
    shard: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class BadShard:
    """A shard that could not be used, and why."""

    name: str
    reason: str
