"""The encoder: a timm network that gives a feature map at stride 4 and one at the output stride."""

import difflib
from typing import cast

import timm
import torch
from timm.models import FeatureInfo
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_seg.errors import ConfigError
from dist_seg.models.norm import NormKind, batch_norms, check_norm, convert_norms

LOW_LEVEL_STRIDE = 4
_SUITABLE = "ResNet, EfficientNet, MobileNet and ConvNeXt models take output_stride 8 and 16"


class Encoder(nn.Module):
    """A timm network cut after its last stage.

    Frozen stages, counted from the input, have parameters without a gradient and stay in evaluation mode, so that
    their running statistics do not move either; nothing is kept of them for the backward pass.
    """

    def __init__(self, name: str, net: nn.Module, norm: NormKind, frozen_stages: int) -> None:
        super().__init__()
        levels = feature_levels(net)
        strides = [stride for _, stride, _ in levels]
        self.name = name
        """timm's name of the network."""
        self.net = net
        self.low_level_index = strides.index(LOW_LEVEL_STRIDE)
        self.low_level_channels = levels[self.low_level_index][0]
        self.channels = levels[-1][0]
        self.output_stride = strides[-1]
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

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """images (B, 3, H, W) to features (B, C, H/4, W/4) and (B, C', H/output_stride, W/output_stride)."""
        features: list[torch.Tensor] = self.net(images)
        return features[self.low_level_index], features[-1]


def feature_levels(net: nn.Module) -> list[tuple[int, int, str]]:
    """Channels, stride and module name of every feature map that a timm `features_only` network gives."""
    info = cast(FeatureInfo, net.feature_info)
    return [(int(level["num_chs"]), int(level["reduction"]), str(level["module"])) for level in info.get_dicts()]


def build_encoder(name: str, output_stride: int, norm: NormKind = "batch", frozen_stages: int = 0) -> Encoder:
    """The timm network `name` with random weights. Raises ConfigError for one that a DeepLabV3+ cannot stand on."""
    check_norm(norm)
    if not timm.is_model(name):
        architectures = timm.list_models()
        near = difflib.get_close_matches(name.split(".")[0], architectures, n=5, cutoff=0.5)
        advice = f"nearest: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise ConfigError(f"model.encoder: timm {timm.__version__} has no model {name!r}; {advice}")
    try:
        net = timm.create_model(name, pretrained=False, features_only=True, output_stride=output_stride)
    except (TypeError, AssertionError, NotImplementedError, RuntimeError, ValueError, AttributeError) as error:
        reason = str(error) or "refused by the model"
        raise ConfigError(
            f"model.encoder: {name} does not take model.output_stride {output_stride} ({reason}); {_SUITABLE}"
        ) from error
    strides = [stride for _, stride, _ in feature_levels(net)]
    if LOW_LEVEL_STRIDE not in strides or strides[-1] != output_stride:
        raise ConfigError(
            f"model.encoder: {name} gives features at strides {strides}; needed are {LOW_LEVEL_STRIDE} for the "
            f"low-level skip and, last, model.output_stride {output_stride}; {_SUITABLE}"
        )
    return Encoder(name, net, norm, frozen_stages)


def _modules_up_to_stage(name: str, net: nn.Module, stages: int) -> tuple[nn.Module, ...]:
    """The modules without children, and those with parameters of their own, that belong to the first `stages` stages.

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
