"""The heads over regions: class and box (Ren et al. 2015), mask (He et al. 2017, arXiv:1703.06870).

R is the number of regions of all images, which are concatenated; K that of classes, beside class 0 for the background.
Submodules have torchvision's names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from dist_seg.config.schema import MaskRcnnConfig
from dist_seg.models.mask_rcnn.detections import Detections
from dist_seg.models.mask_rcnn.fpn import head_norm_layer
from dist_seg.models.mask_rcnn.head_sizes import head_sizes
from dist_seg.models.mask_rcnn.matching import NEITHER, match_objects
from dist_seg.models.mask_rcnn.roi_align import PyramidRoIAlign
from dist_seg.models.mask_rcnn.rpn import SMOOTH_L1_BETA
from dist_seg.models.mask_rcnn.targets import ObjectTargets, first_objects, gather_boxes, mask_targets
from dist_seg.runtime.precision import at_least_float32

_BOX_POOL, _MASK_POOL = 7, 14
"""Rows and columns of a pooled region, for classes and boxes and for masks."""
_MIN_SIZE = 1e-2
"""Sides, in pixels, below which a detection is dropped; torchvision's value."""


@dataclass(frozen=True, kw_only=True)
class _SampledRegions:
    """The regions that one step trains on."""

    boxes: list[Tensor]
    """(r, 4) in pixels, for each image."""
    images: Tensor
    """(R,) int64: index of the image."""
    labels: Tensor
    """(R,) int64: 0 for background, otherwise the class id + 1."""
    objects: Tensor
    """(R,) int64: the object's index in its image; negative for background."""


class RoIHeads(nn.Module):
    """Turns pyramid maps and proposals into losses or into detections."""

    def __init__(self, cfg: MaskRcnnConfig, num_classes: int) -> None:
        super().__init__()
        self._cfg, self._sizes = cfg, head_sizes(cfg)
        sizes = self._sizes
        self._coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self._sampler = BalancedPositiveNegativeSampler(sizes.roi_samples, cfg.roi_positive_fraction)
        self.box_roi_pool = PyramidRoIAlign(_BOX_POOL)
        self.box_head = TwoMLPHead(sizes.fpn_channels * _BOX_POOL**2, sizes.box_channels)
        self.box_predictor = FastRCNNPredictor(sizes.box_channels, num_classes + 1)
        self.mask_roi_pool = PyramidRoIAlign(_MASK_POOL)
        self.mask_head = MaskRCNNHeads(
            sizes.fpn_channels, (sizes.mask_channels,) * cfg.mask_convs, 1, head_norm_layer(cfg.head_norm)
        )
        self.mask_predictor = MaskRCNNPredictor(sizes.mask_channels, sizes.mask_channels, num_classes + 1)
        # As in Detectron: at first all classes are equally likely, and a box stays where its proposal is.
        predictors = {self.box_predictor.cls_score: 0.01, self.box_predictor.bbox_pred: 0.001}
        for layer, std in {**predictors, self.mask_predictor.mask_fcn_logits: 0.001}.items():
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def losses(
        self,
        features: Sequence[Tensor],
        size: tuple[int, int],
        proposals: Sequence[Tensor],
        targets: Sequence[ObjectTargets],
        layers_NLHW: Tensor,
    ) -> dict[str, Tensor]:
        """Returns the losses by name, scalars; each is 0 with a graph if it has no sample.

        features: maps at strides 4 to 64 of images of `size` (height, width). proposals: (n, 4) of each image in
        pixels. layers_NLHW: integer id layers of the images.
        """
        sampled = self._sample(proposals, targets)
        regions = torch.cat(sampled.boxes)
        class_logits, deltas = self._classify(features, sampled.boxes, size)
        num_sampled = max(1, len(regions))
        classification = F.cross_entropy(class_logits, sampled.labels, reduction="sum") / num_sampled
        positive = sampled.labels.nonzero().squeeze(1)
        true_boxes = gather_boxes(targets, sampled.images[positive], sampled.objects[positive], regions.dtype)
        true_deltas = self._coder.encode_single(true_boxes, regions[positive])
        class_deltas = deltas.view(len(regions), deltas.shape[1] // 4, 4)[positive, sampled.labels[positive]]
        box = F.smooth_l1_loss(class_deltas, true_deltas, beta=SMOOTH_L1_BETA, reduction="sum") / num_sampled
        mask = self._mask_loss(features, size, sampled, targets, layers_NLHW)
        return {"classification": classification, "box": box, "mask": mask}

    @torch.no_grad()
    def detect(
        self, features: Sequence[Tensor], size: tuple[int, int], proposals: Sequence[Tensor], within: tuple[int, int]
    ) -> list[Detections]:
        """Returns the detections of each image.

        features, size, proposals: as in `losses`. within: (height, width) to which boxes are clipped.
        """
        class_logits, deltas = self._classify(features, proposals, size)
        # Counts come from shapes because a traced graph would record the result of `len` as a constant.
        counts = [boxes.shape[0] for boxes in proposals]
        deltas_RK4 = deltas.view(deltas.shape[0], -1, 4)
        found = [
            self._select(probabilities, image_deltas, boxes, within)
            for probabilities, image_deltas, boxes in zip(
                torch.split(class_logits.softmax(dim=1), counts),
                torch.split(deltas_RK4, counts),
                proposals,
                strict=True,
            )
        ]
        labels = torch.cat([label for _, _, label in found])
        logits = self._mask_logits(features, [boxes for boxes, _, _ in found], size)
        masks = logits[torch.arange(labels.shape[0], device=labels.device), labels].sigmoid()
        return [
            Detections(boxes=boxes.float(), scores=scores.float(), labels=label - 1, masks=image_masks.float())
            for (boxes, scores, label), image_masks in zip(
                found, torch.split(masks, [label.shape[0] for _, _, label in found]), strict=True
            )
        ]

    def _sample(self, proposals: Sequence[Tensor], targets: Sequence[ObjectTargets]) -> _SampledRegions:
        cfg = self._cfg
        boxes, labels, objects = [], [], []
        for proposed, target in zip(proposals, targets, strict=True):
            # Early in training no proposal may overlap an object, so the objects' own boxes are candidates too.
            candidates = torch.cat([proposed, target.boxes[~target.ignored].to(proposed.dtype)])
            matches = match_objects(
                candidates,
                target,
                positive_iou=cfg.roi_positive_iou,
                negative_iou=cfg.roi_negative_iou,
                ignore_overlap=cfg.ignore_overlap,
                best_of_each=False,
            )
            (positive,), (negative,) = self._sampler([(matches >= 0).long().masked_fill(matches == NEITHER, -1)])
            chosen = (positive | negative).nonzero().squeeze(1)
            matches = matches[chosen]
            # A label at the end for the background, whose match is the index -1.
            background = target.labels.new_full((1,), -1)
            labels.append(torch.cat([target.labels, background])[matches] + 1)
            boxes.append(candidates[chosen])
            objects.append(matches)
        images = torch.cat([torch.full_like(matches, i) for i, matches in enumerate(objects)])
        return _SampledRegions(boxes=boxes, images=images, labels=torch.cat(labels), objects=torch.cat(objects))

    def _draw_mask_samples(self, sampled: _SampledRegions) -> list[Tensor]:
        """Indices in [0, R) of the regions that train the mask head, for each image: up to `mask_samples` objects."""
        chosen, start = [], 0
        for boxes in sampled.boxes:
            positive = sampled.labels[start : start + len(boxes)].nonzero().squeeze(1) + start
            drawn = torch.randperm(len(positive), device=positive.device)[: self._sizes.mask_samples]
            chosen.append(positive[drawn])
            start += len(boxes)
        return chosen

    def _mask_loss(
        self,
        features: Sequence[Tensor],
        size: tuple[int, int],
        sampled: _SampledRegions,
        targets: Sequence[ObjectTargets],
        layers_NLHW: Tensor,
    ) -> Tensor:
        """The mean binary cross-entropy of the masks of the regions' own classes, over their cells."""
        chosen = self._draw_mask_samples(sampled)
        regions, indices = torch.cat(sampled.boxes), torch.cat(chosen)
        logits = self._mask_logits(features, [regions[image_indices] for image_indices in chosen], size)
        images, labels = sampled.images[indices], sampled.labels[indices]
        objects = first_objects(targets)[images] + sampled.objects[indices]
        layers = torch.cat([target.layers for target in targets])[objects]
        ids = torch.cat([target.ids for target in targets])[objects]
        truth = mask_targets(layers_NLHW, images, layers, ids, regions[indices])
        class_logits = logits[torch.arange(len(labels), device=labels.device), labels]
        loss = F.binary_cross_entropy_with_logits(class_logits, truth.to(class_logits.dtype), reduction="sum")
        return loss / max(1, truth.numel())

    def _classify(
        self, features: Sequence[Tensor], boxes: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1) and box deltas (R, 4 * (K + 1))."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, size)))
        return at_least_float32(logits), at_least_float32(deltas)

    def _mask_logits(self, features: Sequence[Tensor], boxes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Mask logits (R, K + 1, 28, 28)."""
        return at_least_float32(self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, size))))

    def _select(
        self, probabilities: Tensor, deltas_RK4: Tensor, proposals: Tensor, within: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (n, 4), scores (n,) and labels (n,), from 1, of one image's detections by falling score."""
        cfg = self._cfg
        region, label = (probabilities[:, 1:] > cfg.score_threshold).nonzero(as_tuple=True)
        label = label + 1
        scores = probabilities[region, label]
        boxes = clip_boxes_to_image(self._coder.decode_single(deltas_RK4[region, label], proposals[region]), within)
        valid = remove_small_boxes(boxes, _MIN_SIZE)
        kept = valid[batched_nms(boxes[valid], scores[valid], label[valid], cfg.nms_threshold)]
        kept = kept[: self._sizes.detections_per_image]
        return boxes[kept], scores[kept], label[kept]
