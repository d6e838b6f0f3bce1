"""What travels between reader, loader and training step."""

from dataclasses import dataclass

import torch

from dist_seg.data.codecs.annotations import ImageAnnotations
from dist_seg.data.codecs.encoded import BadSample, BadShard
from dist_seg.data.loading.objects import ImageObjects


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
