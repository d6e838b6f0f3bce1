"""The objects of a placed sample: what is derived from its id layers once geometry is done.

N is the number of objects, L that of layers. The number of operators does not depend on N.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_seg.data.annotations import ImageAnnotations
from dist_seg.data.augment import SampleTransform


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageObjects:
    """Objects on a canvas. Object i has the pixel id `ids[i]` in layer `layers[i]`."""

    boxes: Tensor
    """(N, 4) float32: x1, y1, x2, y2 in pixels of the canvas; the last pixel ends at x2, y2."""
    labels: Tensor
    """(N,) int64 class ids."""
    ignored: Tensor
    """(N,) bool: crowds, and objects of which too little is left on the canvas."""
    layers: Tensor
    """(N,) int64."""
    ids: Tensor
    """(N,) int64, at least 1."""

    def to(self, device: torch.device) -> "ImageObjects":
        return ImageObjects(**{name: getattr(self, name).to(device, non_blocking=True) for name in self.__slots__})


def derive_objects(
    ids_LHW: Tensor, annotations: ImageAnnotations, transform: SampleTransform, *, min_visible: float
) -> ImageObjects:
    """The objects of which something is on the canvas.

    ids_LHW: integers, 0 where no object is. An object with less than `min_visible` of its area, at the scale of the
    canvas, is ignored.
    """
    device, (_, height, width) = ids_LHW.device, ids_LHW.shape
    known = annotations.objects
    labels = torch.tensor([o.class_id for o in known], dtype=torch.int64)
    crowd = torch.tensor([o.crowd for o in known], dtype=torch.bool)
    layers = torch.tensor([o.layer for o in known], dtype=torch.int64)
    whole = torch.tensor([o.area - o.hidden for o in known], dtype=torch.float32) * transform.area_scale
    flat = ids_LHW.reshape(-1)
    places = flat.nonzero().squeeze(1)
    objects = flat[places].long() - 1
    y, x = places % (height * width) // width, places % width
    count = len(known)
    low, high = torch.full((2, count), max(height, width), device=device), torch.full((2, count), -1, device=device)
    both, twice = torch.stack([x, y]), objects.expand(2, -1)
    low.scatter_reduce_(1, twice, both, "amin")
    high.scatter_reduce_(1, twice, both, "amax")
    pixels = torch.bincount(objects, minlength=count).cpu()
    there = pixels > 0
    kept = there.nonzero().squeeze(1)
    ignored = crowd | (pixels < min_visible * whole)
    boxes = torch.cat([low, high + 1]).T.float().cpu()
    return ImageObjects(
        boxes=boxes[kept], labels=labels[kept], ignored=ignored[kept], layers=layers[kept], ids=kept + 1
    )
