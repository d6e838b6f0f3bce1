"""What travels between reader, loader and training step."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dist_seg.data.annotations import ImageAnnotations
from dist_seg.data.arrays import ArrayLayout
from dist_seg.data.objects import ImageObjects


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


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch, on the device.

    images: (B, C, H, W) float32, normalised. targets: (B, H, W) int64 class ids with the ignore index, or of instances
    (B, L, H, W) int32 layers of object ids, 0 where there is none, or of multi-label data (B, K, H, W) uint8: 1 where a
    pixel has the label, 0 where it has not, the ignore index where that is not known. In evaluation the targets keep
    the original size, which differs from the images' where these were scaled.
    """

    images: torch.Tensor
    targets: torch.Tensor
    keys: tuple[str, ...]
    bad: tuple[BadSample, ...] = ()
    """Samples that were planned for this batch and replaced (training) or left out (evaluation)."""
    bad_shards: tuple[BadShard, ...] = ()
    """Shards that were met while this batch was read, and not known to be bad before; in training."""
    replaced: int = 0
    """Samples that came in the place of ones from bad shards; in training."""
    objects: tuple[ImageObjects, ...] = ()
    """Of instances in training: what each image's layers hold."""
    annotations: tuple[ImageAnnotations, ...] = ()
    """Of instances in evaluation: the exact truth of each image."""
    digest: int = 0
    """63 bits over the keys and their drawn augmentation."""
