"""What a launcher such as torchrun tells this process about its rank, read without torch."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LaunchedRank:
    """This process among those that the launcher started."""

    rank: int
    local_rank: int
    """Among the ranks of this machine."""
    world_size: int


def launched_rank() -> LaunchedRank | None:
    """None for a process that no launcher started.

    A variable that is no number counts as unset: `distributed.world.detect_world` refuses it once a command runs.
    """
    if "RANK" not in os.environ:
        return None
    return LaunchedRank(
        rank=_number("RANK", 0), local_rank=_number("LOCAL_RANK", 0), world_size=_number("WORLD_SIZE", 1)
    )


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default
