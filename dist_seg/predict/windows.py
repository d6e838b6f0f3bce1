"""Pictures prepared for the network, whole or, if they are too large, in overlapping windows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dist_seg.config.schema import DataConfig
from dist_seg.data.codecs.npy import Values
from dist_seg.data.loading.augment import eval_transform, input_factor
from dist_seg.data.loading.geometry import place_image
from dist_seg.data.loading.normalize import normalization, normalize
from dist_seg.data.view.pixel_values import network_values

WHOLE_PIXELS = 2048 * 2048
"""Network inputs of more pixels are cut into windows, even if the user gives no window."""
DEFAULT_WINDOW = 1024
"""Side of these windows, in pixels of the network's input."""
_OVERLAP = 0.25


@dataclass(frozen=True, kw_only=True)
class Window:
    """A rectangle of the network's input, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, images: torch.Tensor) -> torch.Tensor:
        """This part of images (B, C, H, W)."""
        return images[..., self.top : self.top + self.height, self.left : self.left + self.width]


def prepared(image_hwc: Values, data: DataConfig, device: torch.device) -> torch.Tensor:
    """The network's input for an RGB image (H, W, 3) or an array image (H, W, C): (1, C, h, w), resized and normalised.

    Evaluation prepares images in the same way.
    """
    height, width = image_hwc.shape[:2]
    transform = eval_transform(input_scale=input_factor(data, height, width), height=height, width=width)
    norm = normalization(data)
    taken = network_values(image_hwc, data)
    return normalize([place_image(taken, transform, norm.padding).to(device)], [transform], norm)


def windows_of(height: int, width: int, side: int | None) -> list[Window]:
    """The windows of an input, row by row, with sides of at most `side` pixels; a single one if the input is small.

    side: None takes `DEFAULT_WINDOW` for inputs of more than `WHOLE_PIXELS`, and one window for smaller ones.
    """
    if side is None:
        side = DEFAULT_WINDOW if height * width > WHOLE_PIXELS else max(height, width)
    return [
        Window(top=top, left=left, height=min(side, height), width=min(side, width))
        for top in _starts(height, side)
        for left in _starts(width, side)
    ]


def _starts(length: int, side: int) -> Iterator[int]:
    """Evenly spaced starts of windows that overlap by at least a quarter; the last window ends at `length`."""
    if length <= side:
        yield 0
        return
    count = math.ceil((length - side) / (side * (1 - _OVERLAP))) + 1
    for i in range(count):
        yield round(i * (length - side) / (count - 1))
