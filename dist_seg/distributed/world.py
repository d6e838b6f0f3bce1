"""Which rank this process is. Detected once and passed on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from dist_seg.errors import UserError
from dist_seg.runtime.machine import visible_cores


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among the ranks: `rank` of `size`, `local_rank` of the `local_size` on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    restarts: int = 0
    """How often the launcher restarted the ranks."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def named_ranks(ranks: Sequence[int]) -> str:
    """For messages: `rank 3`, or `ranks 3, 5`."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def detect_world() -> World:
    """Reads the world from the launcher's environment variables (torchrun's names); without them, one process."""
    rank, size = _variable("RANK", 0), _variable("WORLD_SIZE", 1)
    local_rank, local_size = _variable("LOCAL_RANK", 0), _variable("LOCAL_WORLD_SIZE", size)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"rank {rank} is number {local_rank} on its machine, which has {torch.cuda.device_count()} GPUs; "
                "start at most one process per GPU, or hide the GPUs with CUDA_VISIBLE_DEVICES=''"
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
    """Sets the environment variables that DeepSpeed reads, unless its launcher or torchrun has set them."""
    variables = {"RANK": world.rank, "LOCAL_RANK": world.local_rank, "WORLD_SIZE": world.size}
    for name, number in variables.items():
        os.environ.setdefault(name, str(number))
    if world.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def set_threads(world: World, num_threads: int | None) -> int:
    """Sets the number of torch's CPU threads, which is one for the whole process, and returns it.

    num_threads: None divides the visible cores among the ranks on this machine.
    """
    threads = num_threads or max(1, visible_cores() // world.local_size)
    torch.set_num_threads(threads)
    return threads
