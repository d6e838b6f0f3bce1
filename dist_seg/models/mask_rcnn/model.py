"""Mask R-CNN (He et al. 2017, arXiv:1703.06870) on a feature pyramid."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dist_seg.config.schema import MaskRcnnConfig
from dist_seg.errors import ConfigError
from dist_seg.models.encoder import Encoder
from dist_seg.models.mask_rcnn.detections import Detections
from dist_seg.models.mask_rcnn.fpn import FeaturePyramid
from dist_seg.models.mask_rcnn.head_sizes import head_sizes
from dist_seg.models.mask_rcnn.roi_heads import RoIHeads
from dist_seg.models.mask_rcnn.rpn import RegionProposals
from dist_seg.models.mask_rcnn.targets import ObjectTargets

_STRIDE = 32


class MaskRCNN(nn.Module):
    """Images (B, 3, H, W), normalised, to losses or to detections, for any H and W.

    Inside, the image is padded with zeros on the right and at the bottom to a multiple of 32, and to at least two cells
    of that, so that batch moments exist for a single tiny image too.
    """

    def __init__(self, encoder: Encoder, cfg: MaskRcnnConfig, num_classes: int) -> None:
        """num_classes: without a background."""
        super().__init__()
        if num_classes < 1:
            raise ConfigError(f"an instance network needs at least 1 class, and the data has {num_classes}")
        self.encoder = encoder
        self.fpn = FeaturePyramid(encoder.level_channels, head_sizes(cfg).fpn_channels, cfg.head_norm)
        self.rpn = RegionProposals(cfg)
        self.roi_heads = RoIHeads(cfg, num_classes)

    def forward(
        self, images: Tensor, targets: Sequence[ObjectTargets] | None = None, layers_NLHW: Tensor | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """With the objects of each image, and the images' id layers (B, L, H, W), the losses by name; else detections.

        Each loss is a mean over what was sampled in all images. It is 0 where there is nothing to learn from, and every
        trained parameter gets a gradient all the same.
        """
        height, width = images.shape[2:]
        pad_height, pad_width = _padding(height), _padding(width)
        if pad_height or pad_width:
            images = F.pad(images, (0, pad_width, 0, pad_height))
        padded = (height + pad_height, width + pad_width)
        features = self.fpn(self.encoder(images))
        proposals, losses = self.rpn(features, (height, width), targets)
        if targets is None:
            return self.roi_heads.detect(features, padded, proposals, (height, width))
        assert layers_NLHW is not None
        return {**losses, **self.roi_heads.losses(features, padded, proposals, targets, layers_NLHW)}


def _padding(size: int) -> int:
    return max(2 * _STRIDE, -(-size // _STRIDE) * _STRIDE) - size
