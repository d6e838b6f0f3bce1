"""Builds the network that `model` in the config names."""

import inspect

from torch import nn

from dist_seg.config.schema import MaskRcnnConfig, ModelConfig
from dist_seg.errors import ConfigError
from dist_seg.models.decoders.deeplab import DeepLabV3Plus, check_model
from dist_seg.models.encoder import build_encoder, build_pyramid_encoder
from dist_seg.models.mask_rcnn.model import MaskRCNN
from dist_seg.models.mask_rcnn.weights import load_detector_weights
from dist_seg.models.norm import resolve_norm
from dist_seg.models.weights import load_encoder_weights
from dist_seg.runtime.dotted_path import import_function


def build_model(cfg: ModelConfig, num_classes: int, *, overlapping: bool = False, in_channels: int = 3) -> nn.Module:
    """The network for semantic or multi-label segmentation.

    It takes normalised images (B, in_channels, H, W) and returns logits (B, num_classes, H, W). Its submodule `encoder`
    is what `optim.encoder_lr_factor` applies to. overlapping: the classes do not exclude each other, so there may be a
    single one. Raises UserError for a model, an encoder or weights that cannot be used.
    """
    match cfg.name:
        case "auto" | "deeplabv3plus":
            check_model(cfg, num_classes, min_classes=1 if overlapping else 2)
            norm = resolve_norm(cfg.norm, "semantic", cfg.weights)
            encoder = build_encoder(cfg.encoder, cfg.output_stride, norm, cfg.frozen_stages, in_channels)
            if cfg.weights is not None:
                load_encoder_weights(encoder, cfg.weights)
            return DeepLabV3Plus(encoder, cfg, num_classes)
        case path if _is_dotted(path):
            return _build_user_model(cfg, num_classes, in_channels)
        case name:
            raise _unknown_model(name, "deeplabv3plus", "semantic")


def build_instance_model(
    cfg: ModelConfig, heads: MaskRcnnConfig, num_classes: int, *, in_channels: int = 3
) -> nn.Module:
    """The network for instance segmentation; `MaskRCNN.forward` says what it takes and returns.

    num_classes: without a background class. A user's own model must take and return the same; it is built from `cfg`
    without `heads`. Raises UserError as `build_model` does.
    """
    match cfg.name:
        case "auto" | "mask_rcnn":
            norm = resolve_norm(cfg.norm, "instance", cfg.weights)
            encoder = build_pyramid_encoder(cfg.encoder, norm, cfg.frozen_stages, in_channels)
            model = MaskRCNN(encoder, heads, num_classes)
            if cfg.weights is not None:
                load_detector_weights(model, cfg.weights)
            return model
        case path if _is_dotted(path):
            return _build_user_model(cfg, num_classes, in_channels)
        case name:
            raise _unknown_model(name, "mask_rcnn", "instance")


def _is_dotted(name: str) -> bool:
    return "." in name or ":" in name


def _unknown_model(name: str, known: str, task: str) -> ConfigError:
    return ConfigError(
        f"model.name: {name!r} is not known for the task {task}; choose {known} or the dotted path of your own "
        "function, such as my_package.nets:build"
    )


def _build_user_model(cfg: ModelConfig, num_classes: int, in_channels: int) -> nn.Module:
    """Calls the user's function with the config and the number of classes, and with `in_channels` if it takes that."""
    build = import_function(cfg.name, "model.name")
    takes_channels = "in_channels" in inspect.signature(build).parameters
    model = build(cfg, num_classes, **({"in_channels": in_channels} if takes_channels else {}))
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name: {cfg.name} returned a {type(model).__name__}, not a torch.nn.Module")
    return model
