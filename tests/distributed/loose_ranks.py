"""Ranks in processes of their own that may each end as they like, by a kill too; what they said and how they ended."""

import importlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from dist_seg.distributed.world import World
from tests.distributed.ranks import FORKSERVER, free_port, send_output


@dataclass(frozen=True, kw_only=True)
class Rank:
    """A process that runs, or has run, one rank."""

    process: ForkServerProcess
    output_file: Path

    def ended(self, within_s: float = 90) -> int:
        """Its exit code, or minus the signal that has killed it, once it has ended."""
        self.process.join(within_s)
        assert self.process.exitcode is not None, self.output
        return self.process.exitcode

    @property
    def output(self) -> str:
        return self.output_file.read_text() if self.output_file.exists() else ""


@contextmanager
def loose_ranks(
    function: str, world_size: int, tmp_path: Path, *, launchers_port: int | None = None, **arguments: object
) -> Iterator[list[Rank]]:
    """Starts `module:function(world, **arguments)` on every rank; ends what still runs at the end of the context.

    launchers_port: of a store that a launcher keeps, as torchrun does; without it rank 0 keeps one.
    """
    port = free_port()
    variables = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1"}
    variables |= {"MASTER_PORT": str(launchers_port or port), "TORCHELASTIC_USE_AGENT_STORE": str(bool(launchers_port))}
    ranks: list[Rank] = []
    for rank in range(world_size):
        output_file = tmp_path / f"rank-{rank}-{port}.txt"
        process = FORKSERVER.Process(target=_rank, args=(rank, function, str(output_file), variables, arguments))
        ranks.append(Rank(process=process, output_file=output_file))
    try:
        for rank_ in ranks:
            rank_.process.start()
        yield ranks
    finally:
        for rank_ in ranks:
            if rank_.process.pid is not None:
                rank_.process.kill()
                rank_.process.join()


def _rank(rank: int, function: str, output: str, variables: Mapping[str, str], arguments: Mapping[str, object]) -> None:
    send_output(output, 1, 2)
    os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank))
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    torch.set_num_threads(1)
    size = int(variables["WORLD_SIZE"])
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)(
        World(rank=rank, size=size, local_rank=rank, local_size=size), **arguments
    )
