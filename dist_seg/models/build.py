"""From `model` in the config to a network."""

from torch import nn

from dist_seg.config.schema import ModelConfig
from dist_seg.errors import ConfigError
from dist_seg.models.deeplab import DeepLabV3Plus, check_model
from dist_seg.models.encoder import build_encoder
from dist_seg.models.weights import load_encoder_weights
from dist_seg.runtime.dotted_path import import_function


def build_model(cfg: ModelConfig, num_classes: int) -> nn.Module:
    """The network: images (B, 3, H, W), normalised, to logits (B, num_classes, H, W).

    Its part `encoder` is what `optim.encoder_lr_factor` applies to. Raises UserError for a model, encoder or weights
    that cannot be used.
    """
    if "." in cfg.name or ":" in cfg.name:
        return _build_user_model(cfg, num_classes)
    if cfg.name != "deeplabv3plus":
        raise ConfigError(
            f"model.name: {cfg.name!r} is not known; choose deeplabv3plus or the dotted path of your own function, "
            "such as my_package.nets:build"
        )
    check_model(cfg, num_classes)
    encoder = build_encoder(cfg.encoder, cfg.output_stride, cfg.norm, cfg.frozen_stages)
    if cfg.weights is not None:
        load_encoder_weights(encoder, cfg.weights)
    return DeepLabV3Plus(encoder, cfg, num_classes)


def _build_user_model(cfg: ModelConfig, num_classes: int) -> nn.Module:
    model = import_function(cfg.name, "model.name")(cfg, num_classes)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name: {cfg.name} returned a {type(model).__name__}, not a torch.nn.Module")
    return model
