"""From `model` in the config to a network."""

import inspect

from torch import nn

from dist_seg.config.schema import MaskRcnnConfig, ModelConfig
from dist_seg.errors import ConfigError
from dist_seg.models.decoders.deeplab import DeepLabV3Plus, check_model
from dist_seg.models.encoder import build_encoder, build_pyramid_encoder
from dist_seg.models.mask_rcnn.model import MaskRCNN
from dist_seg.models.mask_rcnn.weights import is_detector, load_detector_tensors
from dist_seg.models.norm import settled_norm
from dist_seg.models.weights import load_encoder_tensors, load_encoder_weights, read_weights
from dist_seg.runtime.dotted_path import import_function


def build_model(cfg: ModelConfig, num_classes: int, *, overlapping: bool = False, in_channels: int = 3) -> nn.Module:
    """The network of semantic segmentation: images (B, in_channels, H, W), normalised, to logits, (B, num_classes, H,
    W).

    overlapping: a pixel may have any number of the classes, so that there may be a single one.

    Its part `encoder` is what `optim.encoder_lr_factor` applies to. Raises UserError for a model, encoder or weights
    that cannot be used.
    """
    if "." in cfg.name or ":" in cfg.name:
        return _build_user_model(cfg, num_classes, in_channels)
    _check_name(cfg.name, "deeplabv3plus", "semantic")
    check_model(cfg, num_classes, least=1 if overlapping else 2)
    norm = settled_norm(cfg.norm, "semantic", cfg.weights)
    encoder = build_encoder(cfg.encoder, cfg.output_stride, norm, cfg.frozen_stages, in_channels)
    if cfg.weights is not None:
        load_encoder_weights(encoder, cfg.weights)
    return DeepLabV3Plus(encoder, cfg, num_classes)


def build_instance_model(
    cfg: ModelConfig, heads: MaskRcnnConfig, num_classes: int, *, in_channels: int = 3
) -> nn.Module:
    """The network of instance segmentation; see `MaskRCNN.forward`. num_classes: without a background.

    A user's own model, which gets `cfg` alone, takes and gives the same. Raises UserError as `build_model` does.
    """
    if "." in cfg.name or ":" in cfg.name:
        return _build_user_model(cfg, num_classes, in_channels)
    _check_name(cfg.name, "mask_rcnn", "instance")
    norm = settled_norm(cfg.norm, "instance", cfg.weights)
    encoder = build_pyramid_encoder(cfg.encoder, norm, cfg.frozen_stages, in_channels)
    model = MaskRCNN(encoder, heads, num_classes)
    if cfg.weights is not None:
        tensors, where = read_weights(cfg.encoder, cfg.weights)
        if is_detector(tensors):
            load_detector_tensors(model, tensors, where)
        else:
            load_encoder_tensors(model.encoder, tensors, where)
    return model


def _check_name(name: str, known: str, task: str) -> None:
    if name not in ("auto", known):
        raise ConfigError(
            f"model.name: {name!r} is not known for the task {task}; choose {known} or the dotted path of your own "
            "function, such as my_package.nets:build"
        )


def _build_user_model(cfg: ModelConfig, num_classes: int, in_channels: int) -> nn.Module:
    """in_channels goes to a function that has a parameter of that name."""
    build = import_function(cfg.name, "model.name")
    takes_channels = "in_channels" in inspect.signature(build).parameters
    model = build(cfg, num_classes, **({"in_channels": in_channels} if takes_channels else {}))
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name: {cfg.name} returned a {type(model).__name__}, not a torch.nn.Module")
    return model
