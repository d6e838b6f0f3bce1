"""RoIAlign (He et al. 2017) over the levels of a pyramid, fast on the CPU as well.

torchvision's kernel takes one thread and one channel after the other there, and its backward pass six times the time of
the forward pass. A pooled cell is a weighted sum of 16 cells of the map (2x2 points, each between 4 cells), so with
channels last pooling is an `embedding_bag`, and its gradient one as well, with points sorted by the cell that they
read: 16 ms for both passes against 244 (1,001 regions, 7x7, 128 channels, two threads). The sums have one order, so
the same bits come out every time.
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
    """The same values as `MultiScaleRoIAlign` with 2x2 points a bin and 4 levels."""

    def __init__(self, size: int) -> None:
        """size: rows and columns of a pooled region."""
        super().__init__()
        self._size = size
        self._reference = MultiScaleRoIAlign(["0", "1", "2", "3"], size, _POINTS)

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
        """Maps (B, C, H/stride, W/stride) at strides 4, 8, 16, 32 and boxes (r, 4) of each image to (R, C, size, size).

        image_size: (height, width) of the image that the maps were made of, a multiple of 32.
        """
        if features[0].device.type != "cpu" or torchvision._is_tracing() or torch.compiler.is_compiling():
            maps = {str(level): features[level] for level in range(len(PYRAMID_STRIDES))}
            pooled: Tensor = self._reference(maps, list(boxes), [image_size])
            return pooled
        return _pool(features[: len(PYRAMID_STRIDES)], boxes, self._size)


def _pool(features: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
    regions, channels = torch.cat(list(boxes)), features[0].shape[1]
    images = torch.cat([torch.full((len(of_image),), i) for i, of_image in enumerate(boxes)])
    with torch.no_grad():
        cells, weights = _cells_and_weights([tuple(level.shape) for level in features], images, regions, size)
    # As torchvision's, it computes in float32 under autocast.
    rows = torch.cat([level.to(regions.dtype).permute(0, 2, 3, 1).reshape(-1, channels) for level in features])
    pooled: Tensor = _WeightedSums.apply(rows, cells, weights)
    return pooled.view(-1, size, size, channels).permute(0, 3, 1, 2)


def _cells_and_weights(
    shapes: Sequence[tuple[int, ...]], images: Tensor, regions: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Which cells of all levels' maps, in one row, a pooled cell is a sum of: (R * size * size, 16), and how much."""
    levels = torch.floor(_WHOLE_IMAGE_LEVEL + torch.log2(box_area(regions).sqrt() / _WHOLE_IMAGE) + 1e-6)
    lowest = PYRAMID_STRIDES[0].bit_length() - 1
    levels = levels.clamp(lowest, lowest + len(shapes) - 1).long() - lowest
    areas = [height * width for _, _, height, width in shapes]
    starts = torch.tensor([shapes[0][0] * sum(areas[:level]) for level in range(len(areas))])[levels]
    heights = torch.tensor([shape[2] for shape in shapes])[levels, None]
    widths = torch.tensor([shape[3] for shape in shapes])[levels, None]
    placed = regions / torch.tensor(PYRAMID_STRIDES, dtype=regions.dtype)[levels, None]
    x, x_weight = _along_axis(placed[:, 0:1], placed[:, 2:3], widths, size)
    y, y_weight = _along_axis(placed[:, 1:2], placed[:, 3:4], heights, size)
    rows = (starts + images * torch.tensor(areas)[levels])[:, None, None] + y * widths[:, :, None]
    cells = rows[:, :, None, :, None] + x[:, None, :, None, :]
    weights = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    return cells.view(-1, _CELLS), weights.reshape(-1, _CELLS)


def _along_axis(low: Tensor, high: Tensor, lengths: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The 2 * 2 cells of every bin along one axis (R, size, 4), and their weights.

    low, high: (R, 1) in cells. lengths: (R, 1) cells of the map. Cell i is at i, without half a cell's offset.
    """
    steps = (torch.arange(size * _POINTS, dtype=low.dtype) + 0.5) / (size * _POINTS)
    places = low + (high - low).clamp_min(1) * steps
    inside = places <= lengths
    before = places.clamp_min(0).long()
    at_edge = before >= lengths - 1
    before = torch.minimum(before, lengths - 1)
    share = torch.where(at_edge, 0, places.clamp_min(0) - before)
    after = torch.minimum(before + 1, lengths - 1)
    weights = torch.stack([(1 - share) * inside, share * inside], dim=2) / _POINTS
    return torch.stack([before, after], dim=2).view(-1, size, 2 * _POINTS), weights.view(-1, size, 2 * _POINTS)


class _WeightedSums(torch.autograd.Function):
    """rows (n, C), indices (m, k) and weights (m, k) to (m, C): of each k rows the weighted sum."""

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
