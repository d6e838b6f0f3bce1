"""What a checkpoint holds: one canonical form, whatever engine and number of ranks wrote it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

FORMAT_VERSION = 1
_BLOCK_BYTES = 64 * 2**20
"""Of host memory that is taken at once for snapshots."""


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
    bad_shards: Mapping[str, str] = field(default_factory=dict)
    """Name of every training shard whose samples are replaced, and why."""
    nonfinite_in_a_row: int = 0
    loss_scale: float = 1.0
    """The factor on the loss under fp16, else 1."""
    loss_scale_good_steps: int = 0
    """Steps since it last changed."""
    origin: str = ""
    """The checkpoint outside the run's own folder that training began from, if it did."""
    format_version: int = FORMAT_VERSION

    def check(self) -> None:
        """Raises ValueError for a field whose value cannot be what `save` wrote."""
        counts = {"step": self.step, "world_size": self.world_size, "nonfinite_in_a_row": self.nonfinite_in_a_row}
        for name, count in counts.items():
            if type(count) is not int or count < 0:
                raise ValueError(f"{name} is {count!r}, not a number of them")
        for name in ("config", "manifest", "bad_samples"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} is no object")
        if type(self.loss_scale) not in (int, float) or type(self.loss_scale_good_steps) is not int:
            raise ValueError(f"loss_scale is {self.loss_scale!r} after {self.loss_scale_good_steps!r} good steps")
        if not isinstance(self.origin, str):
            raise ValueError(f"origin is {self.origin!r}, not a text")


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


class SnapshotBuffers:
    """Host memory that snapshots are taken into, kept from one to the next: the page faults of fresh memory cost
    several times the copy.

    A snapshot is overwritten by the next one of the same part; whoever takes one must be done with the last.
    """

    def __init__(self) -> None:
        self._parts: dict[str, _Part] = {}

    def snapshot(self, part: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Copies on the CPU, in the default memory layout, of tensors that may be gone or changed afterwards.

        They lie side by side, in the order of a file. part: such as `model`; each has memory of its own.
        """
        held = self._parts.setdefault(part, _Part())
        taken: dict[str, torch.Tensor] = {}
        on_gpu = False
        for name, tensor in tensors:
            taken[name] = held.copy_of(name, tensor.detach())
            on_gpu = on_gpu or tensor.is_cuda
        if on_gpu:
            torch.cuda.synchronize()
        if taken.keys() != held.views.keys():  # Another model: what is left of the one before is given back.
            del self._parts[part]
        return taken


class _Part:
    """Views by name, in blocks of memory that each hold elements of one width: so all are aligned without gaps."""

    def __init__(self) -> None:
        self.views: dict[str, torch.Tensor] = {}
        self._free: dict[int, torch.Tensor] = {}
        """By width in bytes, what is left of the newest block."""

    def copy_of(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        view = self.views.get(name)
        if view is None or (view.shape, view.dtype) != (tensor.shape, tensor.dtype):
            view = self.views[name] = self._new(tensor)
        return view.copy_(tensor, non_blocking=tensor.is_cuda)

    def _new(self, tensor: torch.Tensor) -> torch.Tensor:
        width = tensor.element_size()
        num_bytes = tensor.numel() * width
        free = self._free.get(width)
        if free is None or len(free) < num_bytes:
            # Page-locked where there is a GPU: the copies then run at the bus's full speed, one behind the other.
            free = torch.empty(max(num_bytes, _BLOCK_BYTES), dtype=torch.uint8, pin_memory=tensor.is_cuda)
        self._free[width] = free[num_bytes:]
        return free[:num_bytes].view(tensor.dtype).view(tensor.shape)
