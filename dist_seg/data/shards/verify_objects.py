"""Counts a shard's objects while its bytes are read, to compare them with the manifest."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.annotations import MAX_LAYERS, ImageAnnotations, check_annotations, parse_annotations
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.shards.manifest import ObjectCounts, Split
from dist_seg.data.shards.object_counts import ObjectCounter, ShardObjects
from dist_seg.data.shards.sidecar import Sidecar

_NOT_IN_SHARDS = "skipped_annotations"
_SIDES_RATIO = 1.5
"""Early versions took sides from annotated areas, which for polygons differ a little from the masks' areas."""


class PassingObjects:
    """Takes a shard's bytes in order and parses its annotations. Holds those of one sample at a time."""

    def __init__(self, sidecar: Sidecar, num_classes: int) -> None:
        self._sidecar = sidecar
        self._members = [sidecar.member(i, "annotations") for i in range(sidecar.num_samples)]
        self._next = 0
        self._held = bytearray()
        self._counter = ObjectCounter(num_classes)
        self._pixels = np.zeros(num_classes, np.int64)
        self.problems: list[str] = []
        """Annotations that dist-seg would not have packed."""

    def feed(self, offset: int, chunk: bytes) -> None:
        """Take the bytes from `offset` on, which follow the previous ones."""
        while self._next < len(self._members):
            member = self._members[self._next]
            if member.offset >= offset + len(chunk):
                return
            self._held += chunk[max(member.offset - offset, 0) : member.offset + member.length - offset]
            if len(self._held) < member.length:
                return
            self._count(self._next, bytes(self._held))
            self._held.clear()
            self._next += 1

    def counts(self) -> tuple[ShardObjects, tuple[int, ...]]:
        """The objects, and the pixels of each class."""
        return self._counter.counts(), tuple(self._pixels.tolist())

    def _count(self, index: int, data: bytes) -> None:
        try:
            annotations = parse_annotations(data)
            check_annotations(annotations, self._sidecar.height(index), self._sidecar.width(index))
            pixels = self._checked_pixels(annotations)
        except UndecodableError as error:
            self.problems.append(f"{self._sidecar.key(index)}: {error}")
            return
        if self._sidecar.num_classes and self._sidecar.classes(index) != annotations.classes:
            self.problems.append(f"{self._sidecar.key(index)}: its sidecar lists other classes than its annotations")
        self._counter.add(annotations)
        self._pixels += pixels

    def _checked_pixels(self, annotations: ImageAnnotations) -> NDArray[np.int64]:
        """Pixels of each class in the layers. Raises `UndecodableError` for an impossible class or layer."""
        pixels = np.zeros(len(self._pixels), np.int64)
        for found in annotations.objects:
            if not (0 <= found.class_id < len(pixels) and 0 <= found.layer < MAX_LAYERS):
                raise UndecodableError(f"json: object {found.id} has class {found.class_id} and layer {found.layer}")
            if not found.crowd:
                pixels[found.class_id] += found.pixels - found.hidden
        return pixels


def object_differences(
    split: Split, found: ObjectCounts, class_pixels: Sequence[int], class_names: Sequence[str]
) -> Iterator[str]:
    """The differences between a split's counts in the manifest and its annotations."""
    assert split.objects is not None
    for name, listed, counted in zip(class_names, split.objects.class_objects, found.class_objects, strict=True):
        if listed != counted:
            yield f"counts {listed} objects of class {name}, but its annotations have {counted}"
    for name, listed, counted in zip(class_names, split.class_pixels, class_pixels, strict=True):
        if listed != counted:
            yield f"counts {listed} pixels of class {name}, but its annotations have {counted}"
    for name, counted in asdict(found).items():
        listed = getattr(split.objects, name)
        if name in ("class_objects", _NOT_IN_SHARDS):
            continue
        if not _alike(listed, counted) if name == "sides" else listed != counted:
            yield f"{name} is {listed}, but {counted} by its annotations"


def _alike(listed: Sequence[float], counted: Sequence[float]) -> bool:
    return len(listed) == len(counted) and all(
        one <= _SIDES_RATIO * other and other <= _SIDES_RATIO * one for one, other in zip(listed, counted, strict=True)
    )
