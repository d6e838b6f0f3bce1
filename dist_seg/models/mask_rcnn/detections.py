"""What Mask R-CNN finds in an image, and its masks at the size of the image."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Detections:
    """The N objects found in one image, by falling score."""

    boxes: Tensor
    """(N, 4) float32: x1, y1, x2, y2 in pixels of the network's input, inside it."""
    scores: Tensor
    """(N,) float32 in [0, 1]."""
    labels: Tensor
    """(N,) int64: class ids from 0."""
    masks: Tensor
    """(N, 28, 28) float32 in [0, 1]: the probability of the object, on a grid over its box."""


def paste_masks(
    detections: Detections, height: int, width: int, *, chunk: int = 8, threshold: float = 0.5
) -> Iterator[Tensor]:
    """Yields masks (n, height, width) bool of `chunk` detections at a time, in their order.

    The boxes must be in pixels of an image of this height and width. The probabilities of a mask, with zeros around
    them, are interpolated bilinearly at the centres of pixels; pixels above `threshold` belong to the object. A small
    chunk is faster than a large one because it stays in the processor's cache.
    """
    for start in range(0, len(detections.boxes), chunk):
        boxes, masks = detections.boxes[start : start + chunk], detections.masks[start : start + chunk]
        # The grid is parallel to the axes, so interpolation is two matrix products.
        down = _interpolation(boxes[:, 1], boxes[:, 3], masks.shape[1], height)
        across = _interpolation(boxes[:, 0], boxes[:, 2], masks.shape[2], width)
        yield down @ masks @ across.mT > threshold


def _interpolation(low: Tensor, high: Tensor, cells: int, size: int) -> Tensor:
    """(n, size, cells): the weight of each cell at the centre of each pixel along one axis.

    low, high: (n,) the ends of the interval in pixels that the cells divide evenly.
    """
    centers = torch.arange(size, device=low.device) + 0.5
    positions = (centers - low[:, None]) * (cells / (high - low).clamp_min(1e-6))[:, None] - 0.5
    return (1 - (positions[:, :, None] - torch.arange(cells, device=low.device)).abs()).clamp_min(0)
