"""What Mask R-CNN is trained on: the objects of each image, as boxes and as id layers."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

MASK_SIZE = 28
"""Rows and columns of a predicted mask, which is stretched over its box."""

_POINTS = 2
"""Each bin of the grid is looked up at _POINTS x _POINTS points, as RoIAlign does."""


class ObjectTargets(Protocol):
    """The N objects of one image. Object i covers the pixels where id layer `layers[i]` of the image holds `ids[i]`."""

    @property
    def boxes(self) -> Tensor:
        """(N, 4) float: x1, y1, x2, y2 in pixels of the network's input; pixel (0, 0) spans [0, 1) x [0, 1)."""
        ...

    @property
    def labels(self) -> Tensor:
        """(N,) int64: class ids from 0, without a background class."""
        ...

    @property
    def ignored(self) -> Tensor:
        """(N,) bool: crowds and objects cut by the crop. They count as neither object nor background."""
        ...

    @property
    def layers(self) -> Tensor:
        """(N,) int64: index of the id layer."""
        ...

    @property
    def ids(self) -> Tensor:
        """(N,) int64: the object's id in its layer, from 1; the layer holds 0 where no object is."""
        ...


def gather_boxes(targets: Sequence[ObjectTargets], images: Tensor, objects: Tensor, dtype: torch.dtype) -> Tensor:
    """(P, 4): the box of object `objects[p]` in image `images[p]`; images, objects: (P,) int64."""
    return torch.cat([target.boxes for target in targets])[first_objects(targets)[images] + objects].to(dtype)


def first_objects(targets: Sequence[ObjectTargets]) -> Tensor:
    """(B,) int64: the index of each image's first object when the objects of all images are concatenated."""
    counts = torch.tensor([0, *(len(target.boxes) for target in targets[:-1])])
    return counts.cumsum(0).to(targets[0].boxes.device)


def mask_targets(layers_NLHW: Tensor, images: Tensor, layers: Tensor, ids: Tensor, boxes: Tensor) -> Tensor:
    """(P, 28, 28) float32 in [0, 1]: the share of each bin of a region's grid that belongs to the region's object.

    They are read from the id layers, so no mask of a whole image is made. layers_NLHW: integer ids. images, layers,
    ids: (P,) int64, which image, layer and id each region's object has. boxes: (P, 4) regions in pixels, x1, y1, x2,
    y2. The number of operators does not depend on P.
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
