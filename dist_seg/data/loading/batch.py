"""The batch that a loader hands to training and evaluation."""

from dataclasses import dataclass

import torch

from dist_seg.data.codecs.annotations import ImageAnnotations
from dist_seg.data.codecs.encoded import BadSample, BadShard
from dist_seg.data.loading.objects import ImageObjects


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch, on the device.

    images: (B, C, H, W) float32, normalised. targets: one of
    - class ids (B, H, W) int64, or the ignore index;
    - layers of object ids (B, L, H, W) int32, 0 where there is no object;
    - layers of labels (B, K, H, W) uint8: 1 where a pixel has the label, 0 where it does not, the ignore index where
      that is unknown.
    In evaluation targets keep their original size, even if the images are scaled.
    """

    images: torch.Tensor
    targets: torch.Tensor
    keys: tuple[str, ...]
    bad: tuple[BadSample, ...] = ()
    """Samples that were planned for this batch but could not be used: replaced in training, left out in evaluation."""
    bad_shards: tuple[BadShard, ...] = ()
    """Training only: bad shards that were found while this batch was read."""
    replaced: int = 0
    """Training only: number of samples that replace samples of bad shards."""
    objects: tuple[ImageObjects, ...] = ()
    """Training on instances only: the objects in each image's layers."""
    annotations: tuple[ImageAnnotations, ...] = ()
    """Evaluation of instances only: the exact truth of each image."""
    digest: int = 0
    """63-bit hash of the keys and their augmentation."""
