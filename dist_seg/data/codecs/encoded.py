"""Samples as they lie in their shards, and what says that one cannot be used."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.annotations import ImageAnnotations
from dist_seg.data.codecs.npy import ArrayLayout


@dataclass(frozen=True, kw_only=True)
class EncodedSample:
    """One sample as it lies in its shard."""

    key: str
    image: bytes
    """An encoded image (JPEG or PNG, 8 bits, RGB or grey), or an array as a `.npy` file."""
    target: bytes
    """An encoded mask: grey 8-bit PNG of class ids, of the image's size; of instances grey 16-bit layers of object ids,
    one below the other; of multi-label data grey 8-bit layers of labels."""
    height: int
    width: int
    annotations: ImageAnnotations | None = None
    """Of instances: parsed already, so that what cannot be read is found before anything is decoded."""
    num_classes: int = 0
    """Of class ids: the number of classes that it was packed with, which no id but its ignore index may reach."""
    ignore_index: int = 255
    num_labels: int = 0
    """Of multi-label data: the number of layers."""
    class_ids: NDArray[np.uint8] | None = None
    """(256,) what class ids, or the places of labels, stand for; None where the mask is taken as it is."""
    mapped_labels: int = 0
    """Of multi-label data with `class_ids`: the number of labels that they stand for."""
    array: ArrayLayout | None = None
    """Of an image that is an array."""


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
