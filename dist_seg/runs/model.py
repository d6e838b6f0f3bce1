"""Restores a trained model from a checkpoint, ready to predict."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from dist_seg.checkpoint.reading import load_meta, load_weights
from dist_seg.config.checks import check_config
from dist_seg.config.load import config_from_tree, parse_config, to_tree
from dist_seg.config.schema import Config
from dist_seg.errors import CheckpointError
from dist_seg.tasks.build import build_model, build_task, for_one_process
from dist_seg.tasks.classes import ClassInfo, stored_class_info
from dist_seg.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model in evaluation mode, with the configuration and classes that it was trained with."""

    model: nn.Module
    task: Task
    config: Config
    classes: ClassInfo
    step: int
    weights: Literal["ema", "raw"]
    manifest_hash: str


def load_trained(
    checkpoint: str, weights: Literal["ema", "raw"] | None, device: torch.device, overrides: Sequence[str] = ()
) -> TrainedModel:
    """The model of a checkpoint, by path or URL. weights: None takes the moving average if there is one.

    overrides: `KEY=VALUE` of `eval.`, `data.` and `train.` settings. Raises CheckpointError for a checkpoint that is
    incomplete or does not fit its own configuration.
    """
    meta = load_meta(checkpoint)
    config = config_from_tree(meta.config, f"{checkpoint}/meta.json")
    if overrides:
        config = _overridden(config, overrides)
    chosen: Literal["ema", "raw"] = weights or ("ema" if config.train.ema_decay else "raw")
    classes = stored_class_info(meta.manifest, f"{checkpoint}/meta.json: manifest")
    # The encoder's ImageNet weights would be overwritten at once, and their file may not be here.
    plain = for_one_process(config)
    blank = dataclasses.replace(plain, model=dataclasses.replace(plain.model, weights=None))
    task = build_task(blank, classes)
    model = build_model(task, blank, device)
    try:
        model.load_state_dict(load_weights(checkpoint, chosen))
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint}: the weights do not fit the model: {error}") from error
    return TrainedModel(
        model=model.eval(),
        task=task,
        config=config,
        classes=classes,
        step=meta.step,
        weights=chosen,
        manifest_hash=str(meta.manifest["hash"]),
    )


def _overridden(config: Config, overrides: Sequence[str]) -> Config:
    changed = to_tree(parse_config([], overrides))
    tree = to_tree(config)
    for override in overrides:
        section, _, name = override.partition("=")[0].partition(".")
        name = name.partition(".")[0]
        if section not in ("eval", "data", "train") or not name:
            raise CheckpointError(
                f"{override}: only eval.*, data.* and train.* settings can be changed for a trained model"
            )
        cast(dict[str, object], tree[section])[name] = cast(dict[str, object], changed[section])[name]
    overridden = config_from_tree(tree, "the command line")
    check_config(overridden)
    return overridden
