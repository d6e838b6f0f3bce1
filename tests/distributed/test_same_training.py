"""The same training on any number of ranks, and a resume that is exact to the bit."""

import os
import signal
from pathlib import Path

import pytest
import torch

from dist_seg.distributed.world import World
from dist_seg.engine.stop import StopSignal
from dist_seg.runs.audit import audit
from dist_seg.telemetry.events import Event, StepDone
from tests.distributed.ranks import run_ranks
from tests.distributed.training import (
    EXACT,
    assert_close_states,
    assert_equal_bits,
    losses,
    state_at,
    train_on,
)

pytestmark = pytest.mark.distributed


def train_exactly(world: World, shards: str, run_dir: str) -> None:
    train_on(world, shards, run_dir, [*EXACT, "checkpoint.interval_steps=1", "checkpoint.keep_last=9"])


@pytest.fixture(scope="module")
def runs_by_ranks(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same five steps of eight lanes on 1, 2 and 3 ranks; eight lanes do not divide by three."""
    folder = tmp_path_factory.mktemp("ranks")
    for world_size in (1, 2, 3):
        run_ranks(
            "tests.distributed.test_same_training:train_exactly",
            world_size,
            folder,
            shards=str(synthetic_shards),
            run_dir=str(folder / f"run-{world_size}"),
        )
    return {world_size: folder / f"run-{world_size}" for world_size in (1, 2, 3)}


@pytest.mark.parametrize("world_size", [2, 3])
def test_loss_curve_does_not_depend_on_the_number_of_ranks(runs_by_ranks: dict[int, Path], world_size: int) -> None:
    assert len(losses(runs_by_ranks[1])) == 5
    assert losses(runs_by_ranks[world_size]) == pytest.approx(losses(runs_by_ranks[1]), rel=1e-9)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("step", [1, 5])
def test_weights_statistics_and_average_do_not_depend_on_the_number_of_ranks(
    runs_by_ranks: dict[int, Path], world_size: int, step: int
) -> None:
    assert_close_states(runs_by_ranks[1], runs_by_ranks[world_size], step)


def test_training_moved_weights_and_statistics(runs_by_ranks: dict[int, Path]) -> None:
    first, last = (state_at(runs_by_ranks[1], step) for step in (1, 5))
    assert all(not torch.equal(first[key], last[key]) for key in first)
    assert int(last["model/encoder.1.num_batches_tracked"]) == 5


@pytest.mark.parametrize("world_size", [2, 3])
def test_audit_finds_the_same_batches_on_any_number_of_ranks(runs_by_ranks: dict[int, Path], world_size: int) -> None:
    result = audit(runs_by_ranks[1], runs_by_ranks[world_size])
    assert result.agrees
    assert result.compared_steps == 5
    assert not result.weights_compared


RESUMED = ["train.max_steps=12", "optim.lr=0.01", "optim.clip_norm=1.0", "checkpoint.interval_steps=4"]


def train_until(world: World, shards: str, run_dir: str, stop_at: int) -> None:
    """Trains until a stop signal reaches the last rank at step `stop_at`, or to the end for 0."""

    def on_event(event: Event, stop: StopSignal) -> None:
        if isinstance(event, StepDone) and event.step == stop_at and world.rank == world.size - 1:
            stop.requested = True

    outcome = train_on(world, shards, run_dir, RESUMED, on_event)
    assert outcome.complete == (stop_at == 0)
    assert outcome.step == (stop_at or 12)


def train_whole_and_parted(world: World, shards: str, folder: str) -> None:
    train_until(world, shards, f"{folder}/whole", 0)
    for stop_at in (3, 7, 0):
        train_until(world, shards, f"{folder}/parted", stop_at)


def train_and_die(world: World, shards: str, run_dir: str, die_at: int) -> None:
    def on_event(event: Event, stop: StopSignal) -> None:
        if isinstance(event, StepDone) and event.step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train_on(world, shards, run_dir, RESUMED, on_event)


@pytest.fixture(scope="module", params=[1, 3])
def whole_and_parted(
    request: pytest.FixtureRequest, synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with an uninterrupted run and one that was stopped and resumed twice, on `params` ranks."""
    folder = tmp_path_factory.mktemp(f"resume-{request.param}")
    function = "tests.distributed.test_same_training:train_whole_and_parted"
    run_ranks(function, request.param, folder, shards=str(synthetic_shards), folder=str(folder))
    return folder


def test_run_stopped_and_resumed_ends_with_the_bits_of_the_uninterrupted_one(whole_and_parted: Path) -> None:
    assert_equal_bits(whole_and_parted / "whole", whole_and_parted / "parted", 12)


def test_audit_finds_no_difference_between_the_whole_run_and_the_resumed_one(whole_and_parted: Path) -> None:
    result = audit(whole_and_parted / "whole", whole_and_parted / "parted")
    assert result.agrees
    assert result.weights_compared
    assert result.compared_steps == 12


def test_killed_run_resumed_at_three_ranks_ends_with_the_bits_of_the_uninterrupted_one(
    synthetic_shards: Path, tmp_path: Path
) -> None:
    shards, module = str(synthetic_shards), "tests.distributed.test_same_training"
    with pytest.raises(Exception, match="SIGKILL"):
        run_ranks(f"{module}:train_and_die", 3, tmp_path, shards=shards, run_dir=str(tmp_path / "killed"), die_at=7)
    run_ranks(f"{module}:train_until", 3, tmp_path, shards=shards, run_dir=str(tmp_path / "killed"), stop_at=0)
    run_ranks(f"{module}:train_until", 3, tmp_path, shards=shards, run_dir=str(tmp_path / "whole"), stop_at=0)
    assert_equal_bits(tmp_path / "whole", tmp_path / "killed", 12)
