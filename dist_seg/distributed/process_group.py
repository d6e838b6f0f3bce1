"""Opens torch's process group, and closes it so that none of its threads is left."""

import gc
import importlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from dist_seg.distributed.rendezvous import Start, meet
from dist_seg.distributed.world import World


@contextmanager
def process_group(world: World, timeout_s: float, *, single: bool = False) -> Iterator[Start | None]:
    """The process group of all ranks while the context lasts; yields the start that it belongs to.

    A single process has no start (None), and a group only with `single`. In one group, CPU tensors travel over gloo and
    CUDA tensors over NCCL, so flags never wait for the device.
    """
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if world.size == 1 and not single:
        yield None
        return
    # DDP imports this module, whose functions keep the group that exists at that time as their default for ever.
    importlib.import_module("torch.distributed.nn.functional")
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    start = meet(world, timeout_s) if world.size > 1 else None
    store = HashStore() if start is None else start.store
    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout)
    try:
        yield start
    except BaseException as error:
        _clear_frames(error)
        raise
    finally:
        dist.destroy_process_group()
        # gloo's threads end with the group, but DDP's wrapper, part of a reference cycle, still holds it. A thread that
        # frees a tensor while the interpreter shuts down would abort the process and change its exit code.
        gc.collect()


def _clear_frames(error: BaseException) -> None:
    """Clears the frames of an error and of its causes, so that they hold no tensors."""
    current: BaseException | None = error
    while current is not None:
        traceback.clear_frames(current.__traceback__)
        current = current.__cause__ or current.__context__
