"""Runs that are killed from outside at drawn times, and started again with the same command until they are complete."""

import random
from importlib.util import find_spec
from pathlib import Path

import pytest

from dist_seg.distributed.world import World
from tests.distributed.launched_training import LaunchedTraining, at_step, writing_a_checkpoint
from tests.distributed.ranks import run_ranks
from tests.distributed.training import assert_equal_bits, train_on

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds a command's processes in Linux's /proc"),
]
SIZE, MAX_STEPS = 3, 40
LOADERS = {"torch": ["data.loader=torch", "data.num_threads=1"], "dali": ["data.loader=dali", "data.num_threads=1"]}


def settings(loader: str) -> list[str]:
    """Of a small training."""
    return [*LOADERS[loader], f"train.max_steps={MAX_STEPS}", "train.num_threads=1"]


def train_undisturbed(world: World, shards: str, folder: str, loaders: list[str]) -> None:
    for loader in loaders:
        train_on(world, shards, f"{folder}/{loader}", settings(loader))


@pytest.fixture(scope="module")
def undisturbed(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs without interruption, by loader."""
    folder = tmp_path_factory.mktemp("undisturbed")
    loaders = [loader for loader in LOADERS if loader == "torch" or _has_dali()]
    function = f"{__name__}:train_undisturbed"
    run_ranks(function, SIZE, folder, shards=str(synthetic_shards), folder=str(folder), loaders=loaders)
    return folder


def _has_dali() -> bool:
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


@pytest.mark.parametrize("loader", LOADERS)
def test_a_run_killed_twice_ends_with_the_bits_of_the_undisturbed_one(
    loader: str, undisturbed: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    if not (undisturbed / loader).exists():
        pytest.skip("needs NVIDIA DALI, which this machine does not have")
    draw = random.Random(f"kills of {loader}")
    run = tmp_path / "run"
    kept = [*settings(loader), "checkpoint.interval_steps=1"]
    for moment in (at_step(draw.randrange(1, 10)), writing_a_checkpoint(draw.randrange(12, 25))):
        with LaunchedTraining(synthetic_shards, run, kept) as training:
            training.kill_at(moment)
    assert list((run / "checkpoints").glob(".step-*.tmp-*")), "the kill came when no checkpoint was being written"
    with LaunchedTraining(synthetic_shards, run, kept) as training:
        assert training.ended() == 0, training.output
    assert_equal_bits(undisturbed / loader, run, MAX_STEPS)
