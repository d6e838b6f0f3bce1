"""What a checkpoint holds: one canonical form, whatever engine and number of ranks wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class CheckpointMeta:
    """Everything but tensors; JSON-ready."""

    step: int
    """Optimiser steps done, skipped ones included."""
    config: Mapping[str, object]
    """The resolved configuration."""
    manifest: Mapping[str, object]
    """`hash`, `task`, `class_names`, `palette` and `ignore_index` of the training data."""
    world_size: int
    bad_samples: Mapping[str, str] = field(default_factory=dict)
    """Key of every training sample that could not be decoded, and why."""
    nonfinite_in_a_row: int = 0
    loss_scale: float = 1.0
    """The factor on the loss under fp16, else 1."""
    loss_scale_good_steps: int = 0
    """Steps since it last changed."""
    origin: str = ""
    """The checkpoint outside the run's own folder that training began from, if it did."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """A whole training state: full tensors by parameter name."""

    meta: CheckpointMeta
    model: Mapping[str, torch.Tensor]
    """Weights and buffers."""
    ema: Mapping[str, torch.Tensor]
    """Empty where none is kept."""
    optimizer: Mapping[str, torch.Tensor]
    """Moments, by `PARAMETER/MOMENT`."""


def snapshot(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU, in the default memory layout, that training does not touch any more."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
