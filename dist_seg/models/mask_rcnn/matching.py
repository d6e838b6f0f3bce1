"""Assigns anchors or proposals to objects by the overlap of their boxes.

N is the number of objects, A that of anchors or proposals. The number of operators does not depend on N, and at most
N x 16,384 overlaps are held at a time.
"""

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

from dist_seg.models.mask_rcnn.targets import ObjectTargets

BACKGROUND, NEITHER = -1, -2
"""NEITHER: too close to an object for background, or in an ignored object; such a box trains nothing."""
_PIECE = 1 << 14


def match_objects(
    boxes: Tensor,
    targets: ObjectTargets,
    *,
    positive_iou: float,
    negative_iou: float,
    ignore_overlap: float,
    best_of_each: bool,
) -> Tensor:
    """(A,) int64: for every box (A, 4) the index of its object, BACKGROUND or NEITHER.

    A box is assigned to the object with which it has the highest IoU, if that IoU is at least `positive_iou`; below
    `negative_iou` it is background. best_of_each: the boxes with the highest IoU with some object, ties included, are
    assigned to an object however low that IoU is (Ren et al. 2015). A background box becomes NEITHER if more than
    `ignore_overlap` of its own area lies in an ignored object.
    """
    real, ignored = (~targets.ignored).nonzero().squeeze(1), targets.ignored.nonzero().squeeze(1)
    matches = torch.full((len(boxes),), BACKGROUND, device=boxes.device)
    if len(real) and len(boxes):
        best, index, is_best = _best_overlaps(boxes, targets.boxes[real].to(boxes.dtype), best_of_each)
        matches[best >= negative_iou] = NEITHER
        matches = torch.where((best >= positive_iou) | is_best, real[index], matches)
    if len(ignored) and len(boxes):
        inside = _largest_share_inside(boxes, targets.boxes[ignored].to(boxes.dtype)) > ignore_overlap
        matches = matches.masked_fill(inside & (matches == BACKGROUND), NEITHER)
    return matches


def _best_overlaps(boxes: Tensor, objects: Tensor, best_of_each: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(A,) each: the box's highest IoU, the index of that object, and whether the box is the best one of any object."""
    pieces = torch.split(boxes, _PIECE)
    whole = box_iou(objects, boxes) if len(pieces) == 1 else None

    def overlaps(piece: Tensor) -> Tensor:
        iou: Tensor = box_iou(objects, piece) if whole is None else whole
        return iou

    highest = [overlaps(piece).max(dim=0) for piece in pieces]
    best = torch.cat([values for values, _ in highest])
    index = torch.cat([indices for _, indices in highest])
    if not best_of_each:
        return best, index, torch.zeros_like(best, dtype=torch.bool)
    of_object = torch.stack([overlaps(piece).amax(dim=1) for piece in pieces]).amax(dim=0)
    # An object that no box touches has no best box.
    of_object = of_object.masked_fill(of_object == 0, 2)
    is_best = torch.cat([(overlaps(piece) == of_object[:, None]).any(dim=0) for piece in pieces])
    return best, index, is_best


def _largest_share_inside(boxes: Tensor, regions: Tensor) -> Tensor:
    """(A,): the largest share of each box's area that lies in a single region."""
    shares = []
    for piece in torch.split(boxes, _PIECE):
        low = torch.maximum(piece[:, None, :2], regions[:, :2])
        high = torch.minimum(piece[:, None, 2:], regions[:, 2:])
        inside = (high - low).clamp_min(0).prod(dim=2).amax(dim=1)
        shares.append(inside / box_area(piece).clamp_min(1e-6))
    return torch.cat(shares)
