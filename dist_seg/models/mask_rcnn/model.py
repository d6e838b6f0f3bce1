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
    """Turns normalised images (B, C, H, W), for any H and W, into losses or into detections.

    Images are padded with zeros on the right and at the bottom to a multiple of 32 and to at least 64 pixels a side, so
    that batch moments exist even for a single tiny image.
    """

    def __init__(self, encoder: Encoder, cfg: MaskRcnnConfig, num_classes: int) -> None:
        """num_classes: without a background class."""
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
        """Returns the losses by name if `targets` are given, otherwise the detections of each image.

        targets: the objects of each image. layers_NLHW: integer id layers (B, L, H, W) of the images; needed with
        targets. Each loss is a scalar, the mean over the samples of all images. Without samples it is 0, and every
        trained parameter still gets a gradient.
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
