"""Who this process is among the ranks, detected once and passed on."""

import gc
import importlib
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from dist_seg.errors import UserError
from dist_seg.runtime.machine import visible_cores


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's place: `rank` of `size`, `local_rank` of the `local_size` on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    restarts: int = 0
    """How often the launcher has restarted the ranks."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def detect_world() -> World:
    """The world as the launcher's environment variables (torchrun's names) tell it; one process without them."""
    rank, size = _variable("RANK", 0), _variable("WORLD_SIZE", 1)
    local_rank, local_size = _variable("LOCAL_RANK", 0), _variable("LOCAL_WORLD_SIZE", size)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"rank {rank} is number {local_rank} on its machine, which has {torch.cuda.device_count()} GPUs; "
                "start at most one process a GPU, or hide the GPUs with CUDA_VISIBLE_DEVICES=''"
            )
        device = torch.device("cuda", local_rank)
    return World(
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        device=device,
        restarts=_variable("TORCHELASTIC_RESTART_COUNT", 0),
    )


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"environment variable {name}={text!r}: expected an integer, as torchrun sets it") from error


def tell_deepspeed(world: World) -> None:
    """Sets what DeepSpeed reads from the environment, where its own launcher or torchrun has not."""
    place = {"RANK": world.rank, "LOCAL_RANK": world.local_rank, "WORLD_SIZE": world.size}
    for name, number in place.items():
        os.environ.setdefault(name, str(number))
    if world.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


@contextmanager
def process_group(world: World, timeout_s: float, *, single: bool = False) -> Iterator[None]:
    """The process group of all ranks while the context lasts; for a single process only with `single`.

    CPU tensors travel over gloo, CUDA tensors over NCCL, in one group: flags never wait for the device.
    """
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if world.size == 1 and not single:
        yield
        return
    # DDP imports it, and its functions keep whatever group there is by then as their default, for good.
    importlib.import_module("torch.distributed.nn.functional")
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_s)
    if world.size == 1:
        dist.init_process_group(backend, timeout=timeout, store=HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group(backend, timeout=timeout)
    try:
        yield
    except BaseException as error:
        _let_go(error)
        raise
    finally:
        dist.destroy_process_group()
        # gloo's threads end with the group, which DDP's wrapper, part of a cycle, still holds. A thread that is putting
        # away a tensor when the interpreter shuts down would abort the process, whatever its exit code was to be.
        gc.collect()


def _let_go(error: BaseException) -> None:
    """Clears the frames of an error, and of those behind it, of what they hold."""
    behind: BaseException | None = error
    while behind is not None:
        traceback.clear_frames(behind.__traceback__)
        behind = behind.__cause__ or behind.__context__


def set_threads(world: World, num_threads: int | None) -> int:
    """Sets torch's CPU threads of this rank (None: the visible cores over the machine's ranks) and returns them."""
    threads = num_threads or max(1, visible_cores() // world.local_size)
    torch.set_num_threads(threads)
    return threads
