"""Loads published weights, of the encoder or of torchvision's whole Mask R-CNN, into this Mask R-CNN."""

import logging
import re
from collections.abc import Mapping

import torch

from dist_seg.errors import ConfigError
from dist_seg.models.mask_rcnn.model import MaskRCNN
from dist_seg.models.weights import first_few, load_encoder_tensors, read_weights

_log = logging.getLogger(__name__)

_BODY = "backbone.body."
_CLASS_PREDICTORS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
# Files from before torchvision 0.14, such as the published COCO weights, have other names.
_RENAMED = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
)
_OLD_MASK_CONV = re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d+)\.(weight|bias)$")


def load_detector_weights(model: MaskRCNN, spec: str) -> None:
    """Loads the weights that `spec` names (see `read_weights`) into a Mask R-CNN, in place.

    They may be those of the encoder alone, or those of torchvision's whole detector. Raises ConfigError that lists what
    does not fit.
    """
    tensors, where = read_weights(model.encoder.name, spec)
    if any(name.startswith(_BODY) for name in tensors):
        _load_detector_tensors(model, tensors, where)
    else:
        load_encoder_tensors(model.encoder, tensors, where)


def _load_detector_tensors(model: MaskRCNN, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Loads tensors with torchvision's names; predictors for another number of classes keep their random weights."""
    body = {name.removeprefix(_BODY): tensor for name, tensor in tensors.items() if name.startswith(_BODY)}
    load_encoder_tensors(model.encoder, body, where)
    heads = {_current_name(name): tensor for name, tensor in tensors.items() if not name.startswith(_BODY)}
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    wrong_shape = [name for name in heads if name in own and heads[name].shape != own[name].shape]
    left = [
        name
        for name in wrong_shape
        if name.startswith(_CLASS_PREDICTORS) and heads[name].shape[1:] == own[name].shape[1:]
    ]
    problems = {
        "missing": [name for name in own if name not in heads],
        "unexpected": [name for name in heads if name not in own],
        "of another shape": [
            f"{name} ({list(heads[name].shape)} in the file, {list(own[name].shape)} in the model)"
            for name in wrong_shape
            if name not in left
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {first_few(names)}" for kind, names in problems.items() if names)
        raise ConfigError(
            f"model.weights: {where} does not fit the Mask R-CNN. By name, {listed}. The sizes are set by mask_rcnn.* "
            "(torchvision's are the defaults) and model.encoder (resnet50)"
        )
    if left:
        _log.warning(
            "model.weights: %s is for other classes; these keep their random weights: %s",
            where,
            ", ".join(sorted(left)),
        )
    model.load_state_dict({name: heads[name] for name in own if name not in left}, strict=False)


def _current_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    name = _OLD_MASK_CONV.sub(lambda found: f"roi_heads.mask_head.{int(found[1]) - 1}.0.{found[2]}", name)
    return name.removeprefix("backbone.")
