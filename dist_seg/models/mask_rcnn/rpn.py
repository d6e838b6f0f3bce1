"""The region proposal network (Ren et al. 2015, arXiv:1506.01497) over a feature pyramid.

B is the number of images, A that of anchors on all levels together, K that of proposals before suppression. Submodules
have torchvision's names.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead, permute_and_flatten
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from dist_seg.config.schema import MaskRcnnConfig
from dist_seg.models.mask_rcnn.fpn import PYRAMID_LEVEL_STRIDES
from dist_seg.models.mask_rcnn.head_sizes import head_sizes
from dist_seg.models.mask_rcnn.matching import NEITHER, match_objects
from dist_seg.models.mask_rcnn.targets import ObjectTargets, gather_boxes
from dist_seg.runtime.precision import at_least_float32

SMOOTH_L1_BETA = 1 / 9
"""Where the box losses turn from quadratic to linear; torchvision's value."""
_MIN_SIZE = 1e-3
"""Sides, in pixels, below which a proposal is dropped; torchvision's value."""


class RegionProposals(nn.Module):
    """Turns pyramid maps into boxes that may hold an object, and computes the losses of these proposals."""

    def __init__(self, cfg: MaskRcnnConfig) -> None:
        super().__init__()
        self._cfg = cfg
        sizes = head_sizes(cfg)
        self._anchors = AnchorGenerator(
            tuple((size,) for size in sizes.anchor_sizes), (cfg.anchor_ratios,) * len(sizes.anchor_sizes)
        )
        self.head = RPNHead(sizes.fpn_channels, len(cfg.anchor_ratios))
        self._coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self._sampler = BalancedPositiveNegativeSampler(cfg.rpn_samples, cfg.rpn_positive_fraction)

    def forward(
        self, features: Sequence[Tensor], size: tuple[int, int], targets: Sequence[ObjectTargets] | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Returns the proposals of every image, (n, 4) by falling score, and the losses by name if targets are given.

        features: maps (B, channels, H/stride, W/stride) at strides 4 to 64. size: (height, width) of the image in
        pixels, to which proposals are clipped.
        """
        logits, deltas = self.head(list(features))
        objectness_BA = [_flattened(level, level.shape[1], 1).squeeze(2) for level in logits]
        deltas_BA4 = [_flattened(level, level.shape[1] // 4, 4) for level in deltas]
        anchors = self._grid_anchors(features, objectness_BA[0])
        proposals = self._propose(objectness_BA, deltas_BA4, anchors, size, training=targets is not None)
        if targets is None:
            return proposals, {}
        return proposals, self._losses(torch.cat(objectness_BA, 1), torch.cat(deltas_BA4, 1), anchors, targets)

    def _grid_anchors(self, features: Sequence[Tensor], like: Tensor) -> Tensor:
        """(A, 4) in the precision of `like`, because that of the features may be too low for coordinates."""
        self._anchors.set_cell_anchors(like.dtype, like.device)
        grids = [list(level.shape[2:]) for level in features]
        return torch.cat(self._anchors.grid_anchors(grids, [[stride, stride] for stride in PYRAMID_LEVEL_STRIDES]))

    @torch.no_grad()
    def _propose(
        self,
        objectness_BA: Sequence[Tensor],
        deltas_BA4: Sequence[Tensor],
        anchors: Tensor,
        size: tuple[int, int],
        *,
        training: bool,
    ) -> list[Tensor]:
        """Decodes the best anchors of each level, then suppresses overlapping boxes within a level."""
        cfg = self._cfg
        pre_nms = cfg.rpn_pre_nms_train if training else cfg.rpn_pre_nms_eval
        post_nms = cfg.rpn_post_nms_train if training else cfg.rpn_post_nms_eval
        boxes, scores, levels = [], [], []
        anchors_by_level = torch.split(anchors, [level.shape[1] for level in objectness_BA])
        for i, (objectness, deltas, level_anchors) in enumerate(
            zip(objectness_BA, deltas_BA4, anchors_by_level, strict=True)
        ):
            best, index = objectness.topk(min(pre_nms, objectness.shape[1]), dim=1)
            chosen = deltas.gather(1, index[:, :, None].expand(-1, -1, 4))
            decoded = self._coder.decode_single(chosen.flatten(0, 1), level_anchors[index].flatten(0, 1))
            boxes.append(decoded.view_as(chosen))
            scores.append(best.sigmoid())
            levels.append(torch.full_like(best[0], i, dtype=torch.int64))
        boxes_BK4, scores_BK, level_K = torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels)
        proposals = []
        for boxes_K4, scores_K in zip(clip_boxes_to_image(boxes_BK4, size), scores_BK, strict=True):
            valid = remove_small_boxes(boxes_K4, _MIN_SIZE)
            kept = batched_nms(boxes_K4[valid], scores_K[valid], level_K[valid], cfg.rpn_nms_threshold)[:post_nms]
            proposals.append(boxes_K4[valid[kept]])
        return proposals

    def _losses(
        self, objectness_BA: Tensor, deltas_BA4: Tensor, anchors: Tensor, targets: Sequence[ObjectTargets]
    ) -> dict[str, Tensor]:
        """Means over the sampled anchors of all images; 0 with a graph if no anchor is sampled."""
        cfg = self._cfg
        matches = torch.stack(
            [
                match_objects(
                    anchors,
                    target,
                    positive_iou=cfg.rpn_positive_iou,
                    negative_iou=cfg.rpn_negative_iou,
                    ignore_overlap=cfg.ignore_overlap,
                    best_of_each=True,
                )
                for target in targets
            ]
        )
        labels = (matches >= 0).to(anchors.dtype).masked_fill(matches == NEITHER, -1)
        positive, negative = (torch.stack(chosen).bool() for chosen in self._sampler(list(labels)))
        sampled = positive | negative
        num_sampled = sampled.sum().clamp_min(1)
        image, anchor = positive.nonzero(as_tuple=True)
        boxes = gather_boxes(targets, image, matches[image, anchor], anchors.dtype)
        true_deltas = self._coder.encode_single(boxes, anchors[anchor])
        box_loss = F.smooth_l1_loss(deltas_BA4[image, anchor], true_deltas, beta=SMOOTH_L1_BETA, reduction="sum")
        objectness_loss = F.binary_cross_entropy_with_logits(objectness_BA[sampled], labels[sampled], reduction="sum")
        return {"rpn_objectness": objectness_loss / num_sampled, "rpn_box": box_loss / num_sampled}


def _flattened(level: Tensor, num_anchors: int, values: int) -> Tensor:
    """(B, num_anchors * values, H, W) to (B, H * W * num_anchors, values), in the order of the anchors."""
    batch, _, height, width = level.shape
    flat: Tensor = permute_and_flatten(level, batch, num_anchors, values, height, width)
    return at_least_float32(flat)
