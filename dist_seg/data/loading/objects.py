"""The objects of a placed sample, derived from its layers of ids after the geometry.

N is the number of objects, L the number of layers. The number of operators does not depend on N.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_seg.data.codecs.annotations import ImageAnnotations
from dist_seg.data.loading.augment import SampleTransform


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageObjects:
    """Objects on a canvas. Object i has the pixel value `ids[i]` in layer `layers[i]`."""

    boxes: Tensor
    """(N, 4) float32: x1, y1, x2, y2 in canvas pixels; the last pixel ends at x2, y2."""
    labels: Tensor
    """(N,) int64 class ids."""
    ignored: Tensor
    """(N,) bool: crowds, and objects with too little left on the canvas."""
    layers: Tensor
    """(N,) int64."""
    ids: Tensor
    """(N,) int64, at least 1."""

    def to(self, device: torch.device) -> "ImageObjects":
        return ImageObjects(**{name: getattr(self, name).to(device, non_blocking=True) for name in self.__slots__})


def derive_objects(
    ids_LHW: Tensor, annotations: ImageAnnotations, transform: SampleTransform, *, min_visible: float
) -> ImageObjects:
    """The objects with at least one pixel on the canvas.

    ids_LHW: integers, 0 where there is no object. An object with less than `min_visible` of its area, at the scale of
    the canvas, is ignored.
    """
    known = annotations.objects
    labels = torch.tensor([max(o.class_id, 0) for o in known], dtype=torch.int64)  # nobody reads a crowd's
    crowd = torch.tensor([o.crowd for o in known], dtype=torch.bool)
    layers = torch.tensor([o.layer for o in known], dtype=torch.int64)
    whole = torch.tensor([o.pixels - o.hidden for o in known], dtype=torch.float32) * transform.area_scale
    # Further layers belong to other images of the batch.
    boxes, pixels = _extents(ids_LHW[: max((o.layer for o in known), default=0) + 1], len(known))
    there = pixels > 0
    kept = there.nonzero().squeeze(1)
    ignored = crowd | (pixels < min_visible * whole)
    return ImageObjects(
        boxes=boxes[kept], labels=labels[kept], ignored=ignored[kept], layers=layers[kept], ids=kept + 1
    )


def _extents(ids_LHW: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Boxes (count, 4) float32 and numbers of pixels (count,) int64 of the objects 1 to `count`, on the CPU.

    They come from the runs of equal ids along the rows, which are far fewer than the pixels.
    """
    device, (_, height, width) = ids_LHW.device, ids_LHW.shape
    rows = ids_LHW.reshape(-1, width)
    begins = torch.ones(rows.shape, dtype=torch.bool, device=device)
    torch.ne(rows[:, 1:], rows[:, :-1], out=begins[:, 1:])
    begin = begins.view(-1).nonzero().squeeze(1)
    length = torch.diff(begin, append=begin.new_tensor([rows.numel()]))
    numbers = rows.reshape(-1)[begin]
    of_objects = numbers.nonzero().squeeze(1)
    begin, length, objects = begin[of_objects], length[of_objects], numbers[of_objects].long() - 1
    x, y = begin % width, begin // width % height
    low, high = torch.full((2, count), max(height, width), device=device), torch.zeros(2, count, device=device).long()
    twice = objects.expand(2, -1)
    low.scatter_reduce_(1, twice, torch.stack([x, y]), "amin")
    high.scatter_reduce_(1, twice, torch.stack([x + length, y + 1]), "amax")
    pixels = torch.zeros(count, dtype=torch.int64, device=device).scatter_add_(0, objects, length)
    return torch.cat([low, high]).T.float().cpu(), pixels.cpu()
