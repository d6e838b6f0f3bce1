"""Counting a shard's objects from its bytes as they pass by, to compare them with the manifest."""

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
"""Manifests were once written with the sides of the areas as annotated, which of polygons are not quite the masks'."""


class PassingObjects:
    """Is fed a shard's bytes, in order, and parses the annotations among them; holds one sample's at a time."""

    def __init__(self, sidecar: Sidecar, num_classes: int) -> None:
        self._sidecar = sidecar
        self._members = [sidecar.member(i, "annotations") for i in range(sidecar.num_samples)]
        self._next = 0
        self._held = bytearray()
        self._counter = ObjectCounter(num_classes)
        self._pixels = np.zeros(num_classes, np.int64)
        self.problems: list[str] = []
        """Annotations that are not as dist-seg packs them."""

    def feed(self, offset: int, chunk: bytes) -> None:
        """The bytes from `offset` on, which follow those before."""
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
            self.problems.append(f"{self._sidecar.key(index)}: its index lists other classes than its annotations have")
        self._counter.add(annotations)
        self._pixels += pixels

    def _checked_pixels(self, annotations: ImageAnnotations) -> NDArray[np.int64]:
        """Of each class, in the layers."""
        pixels = np.zeros(len(self._pixels), np.int64)
        for found in annotations.objects:
            if not (0 <= found.class_id < len(pixels) and 0 <= found.layer < MAX_LAYERS):
                raise UndecodableError(f"json: object {found.id} is of class {found.class_id}, in layer {found.layer}")
            if not found.crowd:
                pixels[found.class_id] += found.pixels - found.hidden
        return pixels


def object_differences(
    split: Split, found: ObjectCounts, class_pixels: Sequence[int], class_names: Sequence[str]
) -> Iterator[str]:
    """Where a split's counts in the manifest are not those of its annotations."""
    assert split.objects is not None
    for name, listed, counted in zip(class_names, split.objects.class_objects, found.class_objects, strict=True):
        if listed != counted:
            yield f"counts {listed} objects of class {name}, its annotations have {counted}"
    for name, listed, counted in zip(class_names, split.class_pixels, class_pixels, strict=True):
        if listed != counted:
            yield f"counts {listed} pixels of class {name}, its annotations have {counted}"
    for name, counted in asdict(found).items():
        listed = getattr(split.objects, name)
        if name in ("class_objects", _NOT_IN_SHARDS):
            continue
        if not _alike(listed, counted) if name == "sides" else listed != counted:
            yield f"{name} is {listed}, by its annotations {counted}"


def _alike(listed: Sequence[float], counted: Sequence[float]) -> bool:
    return len(listed) == len(counted) and all(
        one <= _SIDES_RATIO * other and other <= _SIDES_RATIO * one for one, other in zip(listed, counted, strict=True)
    )
