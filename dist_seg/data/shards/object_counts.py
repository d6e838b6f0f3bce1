"""Counts objects: over the images of a shard, and over the shards of a split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.annotations import ImageAnnotations
from dist_seg.data.shards.manifest import SIDE_PERCENTILES, ObjectCounts

SIDE_BINS = 128
"""Bins of the histogram of objects' sides. Bin i begins at 2^(i / 8) pixels."""


@dataclass(frozen=True, kw_only=True)
class ShardObjects:
    """The object counts of a shard; see `manifest.ObjectCounts`."""

    class_objects: tuple[int, ...]
    crowd_objects: int
    max_objects: int
    side_histogram: tuple[int, ...]
    overfull_objects: int
    hidden_pixels: int
    skipped_annotations: tuple[str, ...]
    """For each annotation that was left out: what is wrong with it."""


class ObjectCounter:
    """Counts the objects of a shard, image by image."""

    def __init__(self, num_classes: int) -> None:
        self._by_class = np.zeros(num_classes, np.int64)
        self._sides = np.zeros(SIDE_BINS, np.int64)
        self._crowds = self._most = self._overfull = self._hidden = 0
        self._problems: list[str] = []

    def add(self, annotations: ImageAnnotations, problems: Sequence[str] = ()) -> None:
        """Count an image. problems: what is wrong with the annotations that were left out."""
        objects = annotations.objects
        alone = [o for o in objects if not o.crowd]
        self._by_class += np.bincount([o.class_id for o in alone], minlength=len(self._by_class))
        self._sides += side_histogram([o.pixels for o in alone])
        self._crowds += len(objects) - len(alone)
        self._most = max(self._most, len(alone))
        self._overfull += sum(o.hidden > 0 for o in objects)
        self._hidden += sum(o.hidden for o in objects)
        self._problems += problems

    def counts(self) -> ShardObjects:
        return ShardObjects(
            class_objects=tuple(self._by_class.tolist()),
            crowd_objects=self._crowds,
            max_objects=self._most,
            side_histogram=tuple(self._sides.tolist()),
            overfull_objects=self._overfull,
            hidden_pixels=self._hidden,
            skipped_annotations=tuple(self._problems),
        )


def object_counts(shards: Sequence[ShardObjects]) -> ObjectCounts | None:
    """The counts of a split from those of its shards; None if there is no shard."""
    if not shards:
        return None
    histogram = [sum(counts) for counts in zip(*(shard.side_histogram for shard in shards), strict=True)]
    return ObjectCounts(
        class_objects=tuple(sum(counts) for counts in zip(*(shard.class_objects for shard in shards), strict=True)),
        crowd_objects=sum(shard.crowd_objects for shard in shards),
        max_objects=max(shard.max_objects for shard in shards),
        sides=side_percentiles(histogram, SIDE_PERCENTILES),
        overfull_objects=sum(shard.overfull_objects for shard in shards),
        hidden_pixels=sum(shard.hidden_pixels for shard in shards),
        skipped_annotations=sum(len(shard.skipped_annotations) for shard in shards),
    )


def side_histogram(areas: Sequence[float]) -> NDArray[np.int64]:
    """(SIDE_BINS,): number of objects in each bin of side length. areas: in pixels."""
    sides = np.sqrt(np.maximum(np.asarray(areas, np.float64), 1))
    bins = np.minimum((np.log2(sides) * 8).astype(np.int64), SIDE_BINS - 1)
    return np.bincount(bins, minlength=SIDE_BINS)


def side_percentiles(histogram: Sequence[int], percentiles: Sequence[float]) -> tuple[float, ...]:
    """Percentiles of side lengths in pixels, exact to within 1/12; empty if there are no objects."""
    counts = np.cumsum(histogram)
    if not len(counts) or counts[-1] == 0:
        return ()
    bins = np.searchsorted(counts, np.asarray(percentiles) / 100 * counts[-1])
    return tuple(round(float(2 ** ((index + 0.5) / 8)), 1) for index in bins)
