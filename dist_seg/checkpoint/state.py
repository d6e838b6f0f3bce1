"""What a checkpoint holds: one canonical form, whatever engine and number of ranks wrote it."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Self

import msgspec
import torch

from dist_seg.errors import CheckpointError
from dist_seg.runtime.documents import convert, decode

FORMAT_VERSION = 1
Count = Annotated[int, msgspec.Meta(ge=0)]
_BLOCK_BYTES = 64 * 2**20
"""Of host memory that is taken at once for snapshots."""


@dataclass(frozen=True, kw_only=True)
class CheckpointMeta:
    """Everything but tensors; JSON-ready."""

    step: Count
    """Optimiser steps done, skipped ones included."""
    config: Mapping[str, object]
    """The resolved configuration."""
    manifest: Mapping[str, object]
    """`hash`, `task`, `class_names`, `palette` and `ignore_index` of the training data."""
    world_size: Count
    bad_samples: Mapping[str, str] = field(default_factory=dict)
    """Key of every training sample that could not be decoded, and why."""
    bad_shards: Mapping[str, str] = field(default_factory=dict)
    """Name of every training shard whose samples are replaced, and why."""
    nonfinite_in_a_row: Count = 0
    loss_scale: float = 1.0
    """The factor on the loss under fp16, else 1."""
    loss_scale_good_steps: int = 0
    """Steps since it last changed."""
    origin: str = ""
    """The checkpoint outside the run's own folder that training began from, if it did."""
    format_version: int = FORMAT_VERSION

    @classmethod
    def parse(cls, text: bytes | bytearray, where: str) -> Self:
        """Reads what `to_json` wrote. Raises CheckpointError that names the file and the field for anything else."""
        content = decode(bytes(text), dict[str, object], where, error=CheckpointError)
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"checkpoint format {version}, this version reads {FORMAT_VERSION}; use the dist-seg version that "
                "wrote it",
                where=where,
            )
        if strangers := sorted(content.keys() - {entry.name for entry in dataclasses.fields(cls)}):
            raise CheckpointError(f"{strangers[0]} is no field of a checkpoint's description", where=where)
        return convert(content, cls, where, error=CheckpointError)

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1).encode()


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
