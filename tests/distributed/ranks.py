"""Runs a function on real ranks: spawned processes that talk over gloo on the loopback interface."""

import importlib
import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
import torch.multiprocessing as mp

from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.world import World

# Forked from a process that has imported everything once: importing takes a rank longer than most tests.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["torch.distributed", "tests.distributed.training"])


def run_ranks(function: str, world_size: int, tmp_path: Path, **arguments: object) -> list[object]:
    """Calls `module:function(world, **arguments)` on every rank, inside a process group of all ranks.

    Returns what each gave back (JSON-ready), by rank. arguments must be JSON-ready, too. A rank that raises fails the
    caller.
    """
    return launch_ranks(f"{__name__}:in_process_group", world_size, tmp_path, inside=function, arguments=arguments)


def launch_ranks(function: str, world_size: int, tmp_path: Path, **arguments: object) -> list[object]:
    """As `run_ranks`, without a process group: the function makes its own."""
    port = free_port()
    out = tmp_path / f"ranks-{world_size}-{port}"
    out.mkdir(parents=True)
    given = (function, world_size, port, str(out), json.dumps(arguments))
    mp.start_processes(_rank, args=given, nprocs=world_size, start_method="forkserver")  # type: ignore[no-untyped-call]  # torch is partly annotated
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(world_size)]


def send_output(path: str, *descriptors: int) -> None:
    """Has this process's output, 1 or 2 or both, end in a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in descriptors:
        os.dup2(file, descriptor)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def in_process_group(world: World, inside: str, arguments: dict[str, object]) -> object:
    with process_group(world, timeout_s=120):
        return _call(inside, world, arguments)


def _call(function: str, world: World, arguments: dict[str, object]) -> object:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(world, **arguments)


def _rank(rank: int, function: str, world_size: int, port: int, out: str, arguments: str) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    world = World(rank=rank, size=world_size, local_rank=rank, local_size=world_size)
    (Path(out) / f"{rank}.json").write_text(json.dumps(_call(function, world, json.loads(arguments))))


def ending(work: Callable[[], object]) -> dict[str, object]:
    """How a piece of work ends on this rank, JSON-ready: the error's classes and text, or neither."""
    try:
        work()
    except Exception as error:
        return {
            "classes": [kind.__name__ for kind in type(error).__mro__],
            "text": str(error),
            "shared": getattr(error, "shared", False),
        }
    return {"classes": [], "text": "", "shared": False}
