"""The process group is gone when its context ends: threads of gloo must not outlive it into the shutdown."""

from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from dist_seg.distributed.collectives import sum_over_ranks
from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.world import World
from tests.distributed.ranks import launch_ranks

pytestmark = pytest.mark.distributed
_THREADS = Path("/proc/self/task")


def gloo_threads() -> int:
    return sum((thread / "comm").read_text().startswith("pt_gloo") for thread in _THREADS.iterdir())


def train_a_little(world: World) -> None:
    model = DistributedDataParallel(torch.nn.Linear(3, 1))
    torch.autograd.backward(model(torch.ones(2, 3)).sum())
    sum_over_ranks(torch.ones(1))


def end_in_order(world: World) -> list[int]:
    with process_group(world, timeout_s=60):
        train_a_little(world)
        during = gloo_threads()
    return [during, gloo_threads()]


def fail(world: World) -> None:
    model = DistributedDataParallel(torch.nn.Linear(3, 1))
    try:
        raise ValueError(f"first, with {model} in its frame")
    except ValueError as first:
        raise RuntimeError("second") from first


def end_by_error(world: World) -> list[int]:
    during = 0
    try:
        with process_group(world, timeout_s=60):
            sum_over_ranks(torch.ones(1))
            during = gloo_threads()
            fail(world)
    except RuntimeError as error:
        return [during, gloo_threads() if isinstance(error.__cause__, ValueError) else -1]
    return []


@pytest.mark.skipif(not _THREADS.is_dir(), reason="looks at Linux's /proc for the threads of a process")
@pytest.mark.parametrize("function", ["end_in_order", "end_by_error"])
def test_no_thread_of_gloo_outlives_the_process_group(function: str, tmp_path: Path) -> None:
    for during, after in launch_ranks(f"{__name__}:{function}", 2, tmp_path):  # type: ignore[misc]  # JSON of two counts
        assert during > 0
        assert after == 0
