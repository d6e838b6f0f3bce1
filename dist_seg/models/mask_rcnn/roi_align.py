"""RoIAlign (He et al. 2017) over the levels of a pyramid, with a fast implementation for the CPU.

On the CPU torchvision's kernel uses one thread and takes one channel after the other, and its backward pass takes six
times as long as the forward pass. A pooled cell is a weighted sum of 16 cells of the map (2x2 points, each interpolated
between 4 cells). With channels last, pooling is therefore an `embedding_bag`, and so is its gradient if the points are
sorted by the cell that they read: 16 ms for both passes instead of 244 ms (1,001 regions, 7x7, 128 channels, two
threads). The order of the sums is fixed, so the results are the same to the bit every time.

R is the number of regions of all images, C that of channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torchvision.ops import MultiScaleRoIAlign, box_area

from dist_seg.models.encoder import PYRAMID_STRIDES

_POINTS = 2
_CELLS = (2 * _POINTS) ** 2
_WHOLE_IMAGE, _WHOLE_IMAGE_LEVEL = 224, 4
"""A region of 224 x 224 is pooled from the level of stride 2 ** 4 (Lin et al. 2017, equation 1)."""


class PyramidRoIAlign(nn.Module):
    """torchvision's `MultiScaleRoIAlign` with 2x2 points per bin and 4 levels; the same values."""

    def __init__(self, size: int) -> None:
        """size: rows and columns of a pooled region."""
        super().__init__()
        self._size = size
        self._reference = MultiScaleRoIAlign(["0", "1", "2", "3"], size, _POINTS)

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
        """The regions' features (R, C, size, size), in the precision of the boxes.

        features: maps (B, C, H/stride, W/stride), the first four at strides 4, 8, 16, 32. boxes: (r, 4) of each image
        in pixels. image_size: (height, width) of the images that the maps were computed from, multiples of 32.
        """
        if features[0].device.type != "cpu" or torchvision._is_tracing() or torch.compiler.is_compiling():
            maps = {str(level): features[level] for level in range(len(PYRAMID_STRIDES))}
            pooled: Tensor = self._reference(maps, list(boxes), [image_size])
            return pooled
        return _pool(features[: len(PYRAMID_STRIDES)], boxes, self._size)


def _pool(features: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
    regions, channels = torch.cat(list(boxes)), features[0].shape[1]
    images = torch.cat([torch.full((len(image_boxes),), i) for i, image_boxes in enumerate(boxes)])
    with torch.no_grad():
        cells, weights = _cells_and_weights([tuple(level.shape) for level in features], images, regions, size)
    # float32 under autocast, as in torchvision.
    rows = torch.cat([level.to(regions.dtype).permute(0, 2, 3, 1).reshape(-1, channels) for level in features])
    pooled: Tensor = _WeightedSums.apply(rows, cells, weights)
    return pooled.view(-1, size, size, channels).permute(0, 3, 1, 2)


def _cells_and_weights(
    shapes: Sequence[tuple[int, ...]], images: Tensor, regions: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """The cells that each pooled cell is a sum of, and their weights: (R * size * size, 16) each.

    Cells are counted over the maps of all levels and images, concatenated. shapes: of the maps. images: (R,) int64.
    """
    levels = torch.floor(_WHOLE_IMAGE_LEVEL + torch.log2(box_area(regions).sqrt() / _WHOLE_IMAGE) + 1e-6)
    lowest = PYRAMID_STRIDES[0].bit_length() - 1
    levels = levels.clamp(lowest, lowest + len(shapes) - 1).long() - lowest
    areas = [height * width for _, _, height, width in shapes]
    starts = torch.tensor([shapes[0][0] * sum(areas[:level]) for level in range(len(areas))])[levels]
    heights = torch.tensor([shape[2] for shape in shapes])[levels, None]
    widths = torch.tensor([shape[3] for shape in shapes])[levels, None]
    scaled = regions / torch.tensor(PYRAMID_STRIDES, dtype=regions.dtype)[levels, None]
    x, x_weight = _along_axis(scaled[:, 0:1], scaled[:, 2:3], widths, size)
    y, y_weight = _along_axis(scaled[:, 1:2], scaled[:, 3:4], heights, size)
    rows = (starts + images * torch.tensor(areas)[levels])[:, None, None] + y * widths[:, :, None]
    cells = rows[:, :, None, :, None] + x[:, None, :, None, :]
    weights = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    return cells.view(-1, _CELLS), weights.reshape(-1, _CELLS)


def _along_axis(low: Tensor, high: Tensor, lengths: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The 2 * 2 cells that every bin reads along one axis, and their weights: (R, size, 4) each.

    low, high: (R, 1) the region's ends in cells. lengths: (R, 1) the map's cells. The centre of cell i is at i, not at
    i + 0.5.
    """
    steps = (torch.arange(size * _POINTS, dtype=low.dtype) + 0.5) / (size * _POINTS)
    positions = low + (high - low).clamp_min(1) * steps
    inside = positions <= lengths
    before = positions.clamp_min(0).long()
    at_edge = before >= lengths - 1
    before = torch.minimum(before, lengths - 1)
    share = torch.where(at_edge, 0, positions.clamp_min(0) - before)
    after = torch.minimum(before + 1, lengths - 1)
    weights = torch.stack([(1 - share) * inside, share * inside], dim=2) / _POINTS
    return torch.stack([before, after], dim=2).view(-1, size, 2 * _POINTS), weights.view(-1, size, 2 * _POINTS)


class _WeightedSums(torch.autograd.Function):
    """Weighted sums of k rows each: rows (n, C), indices (m, k) and weights (m, k) give (m, C)."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(indices, weights)
        ctx.num_rows = len(rows)  # type: ignore[attr-defined]  # the context takes any attribute
        return F.embedding_bag(indices, rows, mode="sum", per_sample_weights=weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        indices, weights = ctx.saved_tensors  # type: ignore[attr-defined]  # set by save_for_backward
        num_rows: int = ctx.num_rows  # type: ignore[attr-defined]  # set in forward
        order = indices.flatten().argsort(stable=True)
        counts = torch.bincount(indices.flatten(), minlength=num_rows)
        to_rows = F.embedding_bag(
            order // indices.shape[1],
            gradient.contiguous(),
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=weights.flatten()[order],
        )
        return to_rows, None, None
