"""Exports a checkpoint's weights as one safetensors file, which other tools read without this project."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dist_seg.checkpoint.reading import load_meta, load_weights
from dist_seg.checkpoint.state import CheckpointMeta
from dist_seg.checkpoint.tensors import encoded
from dist_seg.errors import CheckpointError
from dist_seg.runtime.documents import convert
from dist_seg.storage.files import write_whole

EXPORT_VERSION = 1
"""Version of the metadata in an exported file."""


@dataclass(frozen=True, kw_only=True)
class _Train:
    ema_decay: float


@dataclass(frozen=True, kw_only=True)
class _Config:
    """The part of a checkpoint's configuration that the choice of weights needs."""

    train: _Train


def export_weights(location: str, out: Path, weights: Literal["ema", "raw"] | None, config_yaml: str) -> str:
    """Writes weights and buffers by their names in the model; returns which were written, `ema` or `raw`.

    weights: None takes the moving average if one was kept. Raises CheckpointError for a checkpoint that is not whole,
    UserError if the file cannot be written.
    """
    meta = load_meta(location)
    config = convert(meta.config, _Config, location, error=CheckpointError)
    chosen = weights or ("ema" if config.train.ema_decay else "raw")
    tensors = {name: tensor.contiguous() for name, tensor in load_weights(location, chosen).items()}
    write_whole(out, encoded(tensors, _metadata(meta, chosen, config_yaml)))
    return chosen


def _metadata(meta: CheckpointMeta, weights: str, config_yaml: str) -> dict[str, str]:
    """Metadata of the file. The format allows only texts, so other values are written as JSON."""
    kept = {key: json.dumps(value) for key, value in meta.manifest.items() if key not in ("hash", "task")}
    return {
        "format": "pt",
        "format_version": str(EXPORT_VERSION),
        "step": str(meta.step),
        "weights": weights,
        "task": str(meta.manifest.get("task", "")),
        "manifest_hash": str(meta.manifest.get("hash", "")),
        "config": config_yaml,
        **kept,
    }
