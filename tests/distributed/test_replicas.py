"""Replicas that come to differ stop the run; runs that come to differ are told apart by the audit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.config.schema import ModelConfig
from dist_seg.distributed.world import World
from dist_seg.engine.stop import StopSignal
from dist_seg.runs.audit import audit
from dist_seg.telemetry.events import DigestTaken, Event, StepDone
from dist_seg.telemetry.jsonl import read_events
from tests.distributed.ranks import ending, run_ranks
from tests.distributed.training import SmallNet, train_on

pytestmark = pytest.mark.distributed
NUDGED_AT = 3
_built: list[nn.Module] = []


def remembered_net(config: ModelConfig, num_classes: int) -> nn.Module:
    """A small net that this process can get hold of while it is trained."""
    _built.append(SmallNet(num_classes))
    return _built[-1]


def train_nudged(
    world: World, shards: str, run_dir: str, ranks: Sequence[int], settings: Sequence[str] = ()
) -> dict[str, object]:
    """How a run ends in which one weight of these ranks moves by itself after step 3; digests every second step."""

    def on_event(event: Event, stop: StopSignal) -> None:
        if isinstance(event, StepDone) and event.step == NUDGED_AT and world.rank in ranks:
            with torch.no_grad():
                next(_built[-1].parameters())[0, 0, 0, 0] += 1e-3

    every = ["telemetry.digest_interval_steps=2", "checkpoint.interval_steps=2", "checkpoint.keep_last=9"]
    net = f"model.name={__name__}:remembered_net"
    return ending(lambda: train_on(world, shards, run_dir, [net, "train.max_steps=8", *every, *settings], on_event))


def train_all(world: World, shards: str, folder: str) -> dict[str, object]:
    return {
        "as planned": train_nudged(world, shards, f"{folder}/as planned", []),
        "again": train_nudged(world, shards, f"{folder}/again", []),
        "one replica nudged": train_nudged(world, shards, f"{folder}/one replica nudged", [1]),
        "all replicas nudged": train_nudged(world, shards, f"{folder}/all replicas nudged", range(world.size)),
        "other seed": train_nudged(world, shards, f"{folder}/other seed", [], ["train.seed=5"]),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the runs, by name."""
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def endings(synthetic_shards: Path, folder: Path) -> list[Mapping[str, Mapping[str, object]]]:
    """By rank, how the runs of every name ended."""
    found = run_ranks(f"{__name__}:train_all", 3, folder, shards=str(synthetic_shards), folder=str(folder))
    return cast(list[Mapping[str, Mapping[str, object]]], found)


def test_a_replica_that_differs_ends_all_ranks_and_is_named(
    endings: list[Mapping[str, Mapping[str, object]]],
) -> None:
    for of_rank in endings:
        end = of_rank["one replica nudged"]
        assert cast(list[str], end["classes"])[0] == "ReplicaMismatchError"
        assert "the weights of ranks [1] differ" in str(end["text"])


@pytest.mark.usefixtures("endings")
def test_a_replica_that_differs_ends_the_run_at_the_next_digest_before_its_checkpoint(folder: Path) -> None:
    run = folder / "one replica nudged"
    assert max(r.event.step for r in read_events(run) if isinstance(r.event, StepDone)) == 4
    assert [r.event.step for r in read_events(run) if isinstance(r.event, DigestTaken)] == [2]
    assert CheckpointStore(run / "checkpoints").steps() == [2]


@pytest.mark.parametrize("name", ["as planned", "all replicas nudged"])
def test_replicas_that_are_equal_go_on(endings: list[Mapping[str, Mapping[str, object]]], name: str) -> None:
    assert [of_rank[name]["text"] for of_rank in endings] == ["", "", ""]


@pytest.mark.usefixtures("endings")
@pytest.mark.parametrize(
    ("name", "batch_differs_at", "weights_differ_at"),
    [("again", None, None), ("all replicas nudged", None, 4), ("other seed", 2, 2)],
)
def test_audit_tells_where_two_runs_part(
    folder: Path, name: str, batch_differs_at: int | None, weights_differ_at: int | None
) -> None:
    result = audit(folder / "as planned", folder / name)
    assert result.compared_steps == 4
    assert (result.batch_differs_at, result.weights_differ_at) == (batch_differs_at, weights_differ_at)
