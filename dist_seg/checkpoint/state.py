"""What a checkpoint holds: one canonical form for every engine and number of ranks."""

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
"""Host memory is allocated in blocks of this size for snapshots."""


@dataclass(frozen=True, kw_only=True)
class CheckpointMeta:
    """Everything in a checkpoint except tensors; JSON-ready."""

    step: Count
    """Optimiser steps done, skipped ones included."""
    config: Mapping[str, object]
    """The resolved configuration."""
    manifest: Mapping[str, object]
    """`hash`, `task`, `class_names`, `palette` and `ignore_index` of the training data."""
    world_size: Count
    bad_samples: Mapping[str, str] = field(default_factory=dict)
    """Keys of training samples that could not be decoded, each with the reason."""
    bad_shards: Mapping[str, str] = field(default_factory=dict)
    """Names of training shards whose samples are replaced, each with the reason."""
    nonfinite_in_a_row: Count = 0
    loss_scale: float = 1.0
    """Factor on the loss under fp16; otherwise 1."""
    loss_scale_good_steps: int = 0
    """Steps since the loss scale last changed."""
    origin: str = ""
    """The checkpoint outside the run's own folder that the training started from; empty if there was none."""
    format_version: int = FORMAT_VERSION

    @classmethod
    def parse(cls, text: bytes | bytearray, where: str) -> Self:
        """Reads what `to_json` wrote. Raises CheckpointError naming the file and the field for anything else."""
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
    """Moving averages of weights; empty if none are kept."""
    optimizer: Mapping[str, torch.Tensor]
    """Optimizer moments, by `PARAMETER/MOMENT`."""


class SnapshotBuffers:
    """Host memory for snapshots. It is kept from one snapshot to the next, as the page faults of fresh memory cost
    several times the copy.

    A snapshot is overwritten by the next one of the same part, so finish with one before taking the next.
    """

    def __init__(self) -> None:
        self._parts: dict[str, _Part] = {}

    def snapshot(self, part: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Copies tensors to the CPU, in the default memory layout; the originals may be freed or changed afterwards.

        The copies lie side by side in memory, in the order of a file. part: such as `model`; each part has its own
        memory.
        """
        held = self._parts.setdefault(part, _Part())
        taken: dict[str, torch.Tensor] = {}
        on_gpu = False
        for name, tensor in tensors:
            taken[name] = held.copy_of(name, tensor.detach())
            on_gpu = on_gpu or tensor.is_cuda
        if on_gpu:
            torch.cuda.synchronize()
        if taken.keys() != held.views.keys():  # Another model: the memory of the previous one is freed.
            del self._parts[part]
        return taken


class _Part:
    """Views by name into blocks of memory. A block holds elements of one width, so all are aligned without gaps."""

    def __init__(self) -> None:
        self.views: dict[str, torch.Tensor] = {}
        self._free: dict[int, torch.Tensor] = {}
        """The unused rest of the newest block, by element width in bytes."""

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
            # Page-locked if there is a GPU: the copies then run one after the other at the full speed of the bus.
            free = torch.empty(max(num_bytes, _BLOCK_BYTES), dtype=torch.uint8, pin_memory=tensor.is_cuda)
        self._free[width] = free[num_bytes:]
        return free[:num_bytes].view(tensor.dtype).view(tensor.shape)
