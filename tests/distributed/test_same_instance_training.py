"""Mask R-CNN trained the same on any number of ranks, and resumed to the bit."""

import os
import signal
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file

from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.view.data_view import whole_view
from dist_seg.distributed.world import World
from dist_seg.engine.evaluator import evaluate
from dist_seg.engine.stop import StopSignal
from dist_seg.runs.audit import audit
from dist_seg.storage.object_store import open_storage
from dist_seg.tasks.build import build_task
from dist_seg.tasks.classes import class_info
from dist_seg.telemetry.events import Event, StepDone
from tests.distributed.ranks import run_ranks
from tests.distributed.training import (
    DETECTOR,
    EXACT,
    assert_close_states,
    assert_equal_bits,
    losses,
    small_config,
    state_at,
    train_on,
)

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

STEPS = 4
LANES = ["train.global_batch=10", "train.micro_batch=2"]
"""Five: neither two ranks nor three can share them out evenly."""
# After one step the momentum is the gradient itself. Before batch norm it would be 0 but for rounding in some layers,
# as a convolution's scale has no effect there.
ONE_STEP = [
    "model.norm=frozen",
    "optim.name=sgd",
    "optim.momentum=0.9",
    "optim.weight_decay=0",
    "train.ema_decay=0",
    "train.max_steps=1",
]


def train_and_score(world: World, shards: str, folder: str) -> dict[str, object]:
    every = ["checkpoint.interval_steps=1", "checkpoint.keep_last=9", f"train.max_steps={STEPS}"]
    train_on(world, shards, f"{folder}/exact-{world.size}", [*DETECTOR, *LANES, *EXACT, *every])
    train_on(world, shards, f"{folder}/one-step-{world.size}", [*DETECTOR, *LANES, *ONE_STEP])
    return score(world, shards)


def score(world: World, shards: str) -> dict[str, object]:
    """Of a network as it is initialised, on the eight images of the validation split."""
    storage = open_storage(shards)
    view = whole_view(storage, load_manifest(storage))
    config = small_config(shards, "", [*DETECTOR, "eval.batch=3"])
    task = build_task(config, class_info(view))
    torch.manual_seed(0)
    result = evaluate(
        task.build_model(),
        task=task,
        config=config,
        view=view,
        split="val",
        world=world,
    )
    assert result is not None
    return dict(result.document)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detectors")


@pytest.fixture(scope="module")
def documents(instance_shards: Path, folder: Path) -> list[dict[str, object]]:
    """Of every rank of 1, 2 and 3, which have left their runs in the folder."""
    function = f"{__name__}:train_and_score"
    runs = [run_ranks(function, size, folder, shards=str(instance_shards), folder=str(folder)) for size in (1, 2, 3)]
    return cast(list[dict[str, object]], [rank for run in runs for rank in run])


@pytest.mark.usefixtures("documents")
@pytest.mark.parametrize("world_size", [2, 3])
def test_gradients_of_a_step_agree_to_1e_5(folder: Path, world_size: int) -> None:
    alone, spread = (
        load_file(folder / f"one-step-{size}" / "checkpoints/step-00000001/optimizer.safetensors")
        for size in (1, world_size)
    )
    assert alone.keys() == spread.keys() and len(alone) > 100
    for name, gradient in alone.items():
        assert gradient.any(), name
        assert (spread[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.usefixtures("documents")
@pytest.mark.parametrize("world_size", [2, 3])
def test_loss_curve_does_not_depend_on_the_number_of_ranks(folder: Path, world_size: int) -> None:
    assert len(losses(folder / "exact-1")) == STEPS
    assert losses(folder / f"exact-{world_size}") == pytest.approx(losses(folder / "exact-1"), rel=1e-9)


@pytest.mark.usefixtures("documents")
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("step", [1, STEPS])
def test_weights_statistics_and_average_do_not_depend_on_the_number_of_ranks(
    folder: Path, world_size: int, step: int
) -> None:
    assert_close_states(folder / "exact-1", folder / f"exact-{world_size}", step)


@pytest.mark.usefixtures("documents")
def test_training_moved_every_weight_and_statistic(folder: Path) -> None:
    first, last = (state_at(folder / "exact-1", step) for step in (1, STEPS))
    assert [key for key in first if torch.equal(first[key], last[key])] == []


@pytest.mark.usefixtures("documents")
@pytest.mark.parametrize("world_size", [2, 3])
def test_audit_finds_the_same_batches_on_any_number_of_ranks(folder: Path, world_size: int) -> None:
    result = audit(folder / "exact-1", folder / f"exact-{world_size}")
    assert (result.agrees, result.compared_steps) == (True, STEPS)


def test_a_networks_whole_result_is_the_same_on_every_rank_and_number_of_ranks(
    documents: list[dict[str, object]],
) -> None:
    assert len(documents) == 1 + 2 + 3
    assert all(document == documents[0] for document in documents)
    assert documents[0]["images"] == 8
    assert isinstance(documents[0]["mask_ap"], float)


RESUMED = [*DETECTOR, *LANES, "train.max_steps=6", "optim.clip_norm=1.0", "checkpoint.interval_steps=2"]


def train_and_die(world: World, shards: str, run_dir: str) -> None:
    def on_event(event: Event, stop: StopSignal) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    train_on(world, shards, run_dir, RESUMED, on_event)


def resume_and_train_whole(world: World, shards: str, folder: str) -> list[int]:
    """The step at which the killed run went on."""
    steps: list[int] = []

    def on_event(event: Event, stop: StopSignal) -> None:
        if isinstance(event, StepDone):
            steps.append(event.step)

    assert train_on(world, shards, f"{folder}/killed", RESUMED, on_event).complete
    assert train_on(world, shards, f"{folder}/whole", RESUMED).complete
    return steps


def test_killed_run_resumed_at_three_ranks_ends_with_the_bits_of_the_uninterrupted_one(
    instance_shards: Path, tmp_path: Path
) -> None:
    shards = str(instance_shards)
    with pytest.raises(Exception, match="SIGKILL"):
        run_ranks(f"{__name__}:train_and_die", 3, tmp_path, shards=shards, run_dir=str(tmp_path / "killed"))
    again = run_ranks(f"{__name__}:resume_and_train_whole", 3, tmp_path, shards=shards, folder=str(tmp_path))
    assert again in ([[3, 4, 5, 6]] * 3, [[5, 6]] * 3)  # whichever checkpoint was whole when the kill came
    assert_equal_bits(tmp_path / "whole", tmp_path / "killed", 6)
    audited = audit(tmp_path / "whole", tmp_path / "killed")
    assert (audited.agrees, audited.weights_compared, audited.compared_steps) == (True, True, 6)
