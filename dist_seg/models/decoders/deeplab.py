"""DeepLabV3+ (Chen et al. 2018, arXiv:1802.02611): encoder, atrous spatial pyramid pooling (ASPP) with separable
convolutions, and a decoder with one low-level skip connection."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from dist_seg.config.schema import ModelConfig
from dist_seg.errors import ConfigError
from dist_seg.models.decoders.convolutions import conv_norm_relu, separable_conv, speed_up_dilated_depthwise
from dist_seg.models.encoder import Encoder
from dist_seg.models.norm import NormKind, batch_norms


class ImagePooling(nn.Module):
    """The mean over the whole map, projected and spread over the map again.

    It has a bias and no normalisation: the pooled map is 1x1, and batch moments over the few values of a micro-batch
    are noise. With one image they do not exist, and torch's BatchNorm raises an error.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.project(features.mean(dim=(2, 3), keepdim=True))
        return F.relu(pooled).expand(-1, -1, *features.shape[2:])


class ASPP(nn.Module):
    """Turns features (B, in_channels, H, W) into (B, out_channels, H, W).

    The branches are a 1x1 convolution, a dilated convolution for each of `dilations`, and image pooling; their maps are
    concatenated and projected.
    """

    def __init__(
        self, in_channels: int, out_channels: int, dilations: Sequence[int], norm: NormKind, dropout: float
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_norm_relu(in_channels, out_channels, norm)])
        self.branches.extend(separable_conv(in_channels, out_channels, norm, rate) for rate in dilations)
        self.pooling = ImagePooling(in_channels, out_channels)
        self.project = conv_norm_relu((len(dilations) + 2) * out_channels, out_channels, norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        maps = [branch(features) for branch in self.branches]
        joined: torch.Tensor = self.dropout(self.project(torch.cat([*maps, self.pooling(features)], dim=1)))
        return joined


class DeepLabV3Plus(nn.Module):
    """Turns normalised images (B, C, H, W), for any H and W, into logits (B, num_classes, H, W).

    Images are padded with zeros on the right and at the bottom to a multiple of the output stride, so that the maps of
    all strides align exactly, and to at least two cells of that stride a side, so that batch moments exist even for a
    single tiny image.
    """

    def __init__(self, encoder: Encoder, cfg: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        rate = 16 // encoder.output_stride
        dilations = [dilation * rate for dilation in cfg.aspp_dilations]
        self.aspp = ASPP(encoder.level_channels[-1], cfg.aspp_channels, dilations, encoder.norm, cfg.dropout)
        self.low_level = conv_norm_relu(encoder.level_channels[0], cfg.low_level_channels, encoder.norm)
        self.decoder = nn.Sequential(
            separable_conv(cfg.aspp_channels + cfg.low_level_channels, cfg.decoder_channels, encoder.norm),
            separable_conv(cfg.decoder_channels, cfg.decoder_channels, encoder.norm),
        )
        self.classifier = nn.Conv2d(cfg.decoder_channels, num_classes, 1)
        heads = (self.aspp, self.low_level, self.decoder)
        for head in heads:
            _init_convolutions(head)
        nn.init.normal_(self.classifier.weight, std=0.01)
        assert self.classifier.bias is not None
        nn.init.zeros_(self.classifier.bias)
        speed_up_dilated_depthwise(self)
        self._always_eval = tuple(bn for head in heads for bn in batch_norms(head)) if encoder.norm == "frozen" else ()
        self.train(self.training)

    def train(self, mode: bool = True) -> "DeepLabV3Plus":
        super().train(mode)
        for module in self._always_eval:
            module.training = False
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        stride = self.encoder.output_stride
        pad_height, pad_width = _padding(height, stride), _padding(width, stride)
        if pad_height or pad_width:
            images = F.pad(images, (0, pad_width, 0, pad_height))
        low, high = self.encoder(images)
        context = F.interpolate(self.aspp(high), size=low.shape[2:], mode="bilinear", align_corners=False)
        features = self.decoder(torch.cat([context, self.low_level(low)], dim=1))
        logits = F.interpolate(self.classifier(features), size=images.shape[2:], mode="bilinear", align_corners=False)
        return logits[:, :, :height, :width]


def check_model(cfg: ModelConfig, num_classes: int, *, min_classes: int = 2) -> None:
    """Raises ConfigError for a number that no network can be built with."""
    at_least_one = {
        "aspp_channels": cfg.aspp_channels,
        "low_level_channels": cfg.low_level_channels,
        "decoder_channels": cfg.decoder_channels,
        **{f"aspp_dilations[{i}]": dilation for i, dilation in enumerate(cfg.aspp_dilations)},
    }
    for key, value in at_least_one.items():
        if value < 1:
            raise ConfigError(f"model.{key}: {value} is not a positive number")
    if not 0.0 <= cfg.dropout < 1.0:
        raise ConfigError(f"model.dropout: {cfg.dropout} is not in [0, 1)")
    if num_classes < min_classes:
        raise ConfigError(
            f"a segmentation network needs at least {min_classes} classes, and the data has {num_classes}"
        )


def _padding(size: int, stride: int) -> int:
    return max(2 * stride, -(-size // stride) * stride) - size


def _init_convolutions(head: nn.Module) -> None:
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
