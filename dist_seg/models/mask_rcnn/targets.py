"""What an instance network is trained on, and what it gives."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

MASK_SIZE = 28
"""A predicted mask has this many rows and columns, whatever the size of its box."""


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


@dataclass(frozen=True, kw_only=True)
class Detections:
    """The N objects found in one image, the surest first."""

    boxes: Tensor
    """(N, 4) float32: x1, y1, x2, y2 in pixels of the network's input, inside it."""
    scores: Tensor
    """(N,) float32 in [0, 1]."""
    labels: Tensor
    """(N,) int64: class ids from 0."""
    masks: Tensor
    """(N, 28, 28) float32: probability, over the box, that the object is there."""
