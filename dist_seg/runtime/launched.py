"""The rank that a launcher such as torchrun gave this process, read without torch."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LaunchedRank:
    """This process among the processes that the launcher started."""

    rank: int
    local_rank: int
    """The rank among those on this machine."""
    world_size: int


def launched_rank() -> LaunchedRank | None:
    """The rank from the environment; None if no launcher started this process.

    A variable that is not a number counts as unset; `distributed.world.detect_world` refuses it once a command runs.
    """
    if "RANK" not in os.environ:
        return None
    return LaunchedRank(
        rank=_number("RANK", 0), local_rank=_number("LOCAL_RANK", 0), world_size=_number("WORLD_SIZE", 1)
    )


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default
