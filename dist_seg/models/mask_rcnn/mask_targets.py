"""Mask targets of sampled regions, straight from the id layers: no mask of a whole image is ever made."""

import torch
from torch import Tensor

from dist_seg.models.mask_rcnn.targets import MASK_SIZE

_POINTS = 2
"""A bin of the grid is looked up at _POINTS x _POINTS points, as RoIAlign does."""


def mask_targets(layers_NLHW: Tensor, images: Tensor, layers: Tensor, ids: Tensor, boxes: Tensor) -> Tensor:
    """(P, 28, 28) float32 in [0, 1]: which share of each bin of a region's grid belongs to the region's object.

    layers_NLHW: integer ids. images, layers, ids: (P,) int64, where each region's object is to be found. boxes: (P, 4)
    regions in pixels. The number of operators does not depend on P.
    """
    _, num_layers, height, width = layers_NLHW.shape
    steps = (torch.arange(MASK_SIZE * _POINTS, device=boxes.device) + 0.5) / (MASK_SIZE * _POINTS)
    # Pixel i spans [i, i + 1).
    x = torch.addcmul(boxes[:, 0:1], boxes[:, 2:3] - boxes[:, 0:1], steps.to(boxes.dtype)).long().clamp_(0, width - 1)
    y = torch.addcmul(boxes[:, 1:2], boxes[:, 3:4] - boxes[:, 1:2], steps.to(boxes.dtype)).long().clamp_(0, height - 1)
    rows = ((images * num_layers + layers)[:, None] * height + y) * width
    found = layers_NLHW.reshape(-1)[rows[:, :, None] + x[:, None, :]]
    hits = (found == ids[:, None, None]).view(len(boxes), MASK_SIZE, _POINTS, MASK_SIZE, _POINTS)
    return hits.sum(dim=(2, 4), dtype=torch.float32) / _POINTS**2
