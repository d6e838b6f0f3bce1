"""What Mask R-CNN is trained on: the objects of each image, as boxes and as id layers."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

MASK_SIZE = 28
"""A predicted mask has this many rows and columns, whatever the size of its box."""

_POINTS = 2
"""A bin of the grid is looked up at _POINTS x _POINTS points, as RoIAlign does."""


class ObjectTargets(Protocol):
    """The N objects of one image. Object i is where layer `layers[i]` of the image's id layers holds `ids[i]`."""

    @property
    def boxes(self) -> Tensor:
        """(N, 4) floats: x1, y1, x2, y2 in pixels of the canvas; pixel (0, 0) spans [0, 1) x [0, 1)."""
        ...

    @property
    def labels(self) -> Tensor:
        """(N,) int64: class ids from 0, without a background class."""
        ...

    @property
    def ignored(self) -> Tensor:
        """(N,) bool: crowds and objects cut by the crop, which are neither object nor background."""
        ...

    @property
    def layers(self) -> Tensor:
        """(N,) int64: index of the id layer."""
        ...

    @property
    def ids(self) -> Tensor:
        """(N,) int64: the object's id in its layer; 0 is where no object is."""
        ...


def gather_boxes(targets: Sequence[ObjectTargets], images: Tensor, objects: Tensor, dtype: torch.dtype) -> Tensor:
    """(P, 4): the box of object `objects[p]` of image `images[p]`."""
    return torch.cat([of_image.boxes for of_image in targets])[first_objects(targets)[images] + objects].to(dtype)


def first_objects(targets: Sequence[ObjectTargets]) -> Tensor:
    """(B,) int64: where each image's objects begin when those of all images are put in one row."""
    counts = torch.tensor([0, *(len(of_image.boxes) for of_image in targets[:-1])])
    return counts.cumsum(0).to(targets[0].boxes.device)


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
