"""The encoder: a timm network that returns feature maps at the strides a decoder needs."""

import difflib
from collections.abc import Sequence

import timm
import torch
from timm.models import FeatureInfo
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_seg.errors import ConfigError
from dist_seg.models.norm import NormKind, batch_norms, check_norm, convert_norms

LOW_LEVEL_STRIDE = 4
PYRAMID_STRIDES = (4, 8, 16, 32)
_SUITABLE = "ResNet, EfficientNet, MobileNet and ConvNeXt models take output_stride 8 and 16"
_SUITABLE_PYRAMID = "ResNet, EfficientNet, MobileNet, ConvNeXt, HRNet and VGG models do"


class Encoder(nn.Module):
    """A timm network without its classifier.

    Stages are counted from the input. The parameters of frozen stages have no gradient, and their modules stay in
    evaluation mode, so their running statistics do not change and nothing is kept of them for the backward pass.
    """

    def __init__(
        self,
        name: str,
        net: nn.Module,
        norm: NormKind,
        frozen_stages: int,
        strides: Sequence[int],
        in_channels: int = 3,
    ) -> None:
        """strides: those of the maps to return, rising; the last must be the network's last."""
        super().__init__()
        levels = feature_levels(net)
        level_strides = [stride for _, stride, _ in levels]
        self.name = name
        """timm's name for the network."""
        self.net = net
        self.in_channels = in_channels
        """Channels of the images."""
        self.norm = norm
        """The normalisation of the network; its decoder uses the same."""
        # A dilated network has several levels with its last stride.
        self._indices = (*(level_strides.index(stride) for stride in strides[:-1]), len(levels) - 1)
        self.level_channels = tuple(levels[index][0] for index in self._indices)
        """Channels of each returned map."""
        self.output_stride = level_strides[-1]
        convert_norms(net, norm)
        frozen = _modules_up_to_stage(name, net, frozen_stages)
        for module in frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        self._always_eval = frozen + (tuple(batch_norms(net)) if norm == "frozen" else ())
        self.train(self.training)

    def train(self, mode: bool = True) -> "Encoder":
        super().train(mode)
        for module in self._always_eval:
            module.training = False
        return self

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Turns images (B, in_channels, H, W) into a map (B, C, H/stride, W/stride) for each of the strides."""
        features: list[torch.Tensor] = self.net(images)
        return tuple(features[index] for index in self._indices)


def feature_levels(net: nn.Module) -> list[tuple[int, int, str]]:
    """Channels, stride and module name of every feature map that a timm `features_only` network returns."""
    info: object = net.feature_info
    assert isinstance(info, FeatureInfo)
    return [(int(level["num_chs"]), int(level["reduction"]), str(level["module"])) for level in info.get_dicts()]


def build_encoder(
    name: str, output_stride: int, norm: NormKind = "batch", frozen_stages: int = 0, in_channels: int = 3
) -> Encoder:
    """The timm network `name` with random weights; it returns maps at stride 4 and at `output_stride`.

    Raises ConfigError for a network that DeepLabV3+ cannot use.
    """
    purpose = f"model.output_stride {output_stride}"
    net = _create_net(name, output_stride, norm, in_channels, purpose=purpose, suitable=_SUITABLE)
    strides = [stride for _, stride, _ in feature_levels(net)]
    if LOW_LEVEL_STRIDE not in strides or strides[-1] != output_stride:
        raise ConfigError(
            f"model.encoder: {name} has features at strides {strides}; the low-level skip needs {LOW_LEVEL_STRIDE}, "
            f"and the last must be model.output_stride {output_stride}; {_SUITABLE}"
        )
    return Encoder(name, net, norm, frozen_stages, (LOW_LEVEL_STRIDE, output_stride), in_channels)


def build_pyramid_encoder(name: str, norm: NormKind = "batch", frozen_stages: int = 0, in_channels: int = 3) -> Encoder:
    """The timm network `name` with random weights; it returns maps at strides 4, 8, 16 and 32.

    Raises ConfigError for a network that a feature pyramid cannot use.
    """
    net = _create_net(
        name,
        PYRAMID_STRIDES[-1],
        norm,
        in_channels,
        purpose="the strides 4, 8, 16, 32 of a pyramid",
        suitable=_SUITABLE_PYRAMID,
    )
    strides = [stride for _, stride, _ in feature_levels(net)]
    if not set(PYRAMID_STRIDES) <= set(strides) or strides[-1] != PYRAMID_STRIDES[-1]:
        raise ConfigError(
            f"model.encoder: {name} has features at strides {strides}; a feature pyramid needs "
            f"{', '.join(map(str, PYRAMID_STRIDES))}; {_SUITABLE_PYRAMID}"
        )
    return Encoder(name, net, norm, frozen_stages, PYRAMID_STRIDES, in_channels)


def _create_net(
    name: str, output_stride: int, norm: NormKind, in_channels: int, *, purpose: str, suitable: str
) -> nn.Module:
    check_norm(norm)
    if not timm.is_model(name):
        architectures = timm.list_models()
        near = difflib.get_close_matches(name.split(".")[0], architectures, n=5, cutoff=0.5)
        advice = f"nearest: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise ConfigError(f"model.encoder: timm {timm.__version__} has no model {name!r}; {advice}")
    try:
        net: nn.Module = timm.create_model(
            name, pretrained=False, features_only=True, output_stride=output_stride, in_chans=in_channels
        )
    except (TypeError, AssertionError, NotImplementedError, RuntimeError, ValueError, AttributeError) as error:
        reason = str(error) or "refused by the model"
        raise ConfigError(f"model.encoder: {name} does not take {purpose} ({reason}); {suitable}") from error
    return net


def _modules_up_to_stage(name: str, net: nn.Module, stages: int) -> tuple[nn.Module, ...]:
    """The modules of the first `stages` stages that are leaves or have parameters of their own.

    A stage ends where timm takes a feature map. timm registers modules in the order in which they run.
    """
    levels = [module for _, _, module in feature_levels(net)]
    if not 0 <= stages <= len(levels):
        raise ConfigError(f"model.frozen_stages: {stages} is not in 0..{len(levels)}, the stages of {name}")
    if stages == 0:
        return ()
    # timm's FeatureListNet flattens `stages.0` to `stages_0`.
    last_names = (levels[stages - 1], levels[stages - 1].replace(".", "_"))
    chosen: list[nn.Module] = []
    inside = False
    for path, module in net.named_modules():
        now = any(path == last or path.startswith(f"{last}.") for last in last_names)
        if inside and not now:
            return tuple(chosen)
        inside = now
        if isinstance(module, _BatchNorm) or not list(module.children()) or list(module.parameters(recurse=False)):
            chosen.append(module)
    return tuple(chosen)
