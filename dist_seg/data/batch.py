"""What travels between reader, loader and training step."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class EncodedSample:
    """One sample as it lies in its shard."""

    key: str
    image: bytes
    """An encoded image (JPEG or PNG, 8 bits, RGB or grey)."""
    target: bytes
    """An encoded mask: grey 8-bit PNG of class ids, of the image's size."""
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class BadSample:
    """A sample that could not be used, and why."""

    key: str
    shard: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch, on the device.

    images: (B, 3, H, W) float32, normalised. targets: (B, H, W) int64 class ids with the ignore index. In evaluation
    the targets keep the original size, which differs from the images' where `data.input_scale` is not 1.
    """

    images: torch.Tensor
    targets: torch.Tensor
    keys: tuple[str, ...]
    bad: tuple[BadSample, ...] = ()
    """Samples that were planned for this batch and replaced (training) or left out (evaluation)."""
    digest: int = 0
    """63 bits over the keys and their drawn augmentation."""
