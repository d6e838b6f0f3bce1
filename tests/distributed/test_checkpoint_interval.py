"""`checkpoint.interval_steps: auto` on real ranks: rank 0 measures and decides, all save together."""

from pathlib import Path

import pytest

from dist_seg.distributed.world import World
from dist_seg.engine.checkpoint_interval import optimal_interval_s
from dist_seg.telemetry.events import CheckpointIntervalChosen, CheckpointSaved
from dist_seg.telemetry.jsonl import read_events
from tests.distributed.ranks import run_ranks
from tests.distributed.training import assert_equal_bits, train_on

pytestmark = pytest.mark.distributed
MTBF_S = 0.05
AUTO = ["checkpoint.interval_steps=auto", f"checkpoint.mtbf_s={MTBF_S}", "checkpoint.keep_last=99"]


def train_both(world: World, shards: str, folder: str) -> None:
    train_on(world, shards, f"{folder}/auto", ["train.max_steps=40", *AUTO])
    train_on(world, shards, f"{folder}/fixed", ["train.max_steps=40"])


@pytest.fixture(scope="module")
def folder(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("interval")
    run_ranks(f"{__name__}:train_both", 2, out, shards=str(synthetic_shards), folder=str(out))
    return out


def test_saves_follow_the_interval_that_was_chosen(folder: Path) -> None:
    events = [record.event for record in read_events(folder / "auto")]
    saved = [event.step for event in events if isinstance(event, CheckpointSaved)]
    chosen = [event for event in events if isinstance(event, CheckpointIntervalChosen)]
    assert saved[0] == 10
    assert saved[-1] == 40
    # One failure in 50 ms, as it were: rarely enough for a step, often enough for many saves.
    assert len(saved) > 3
    assert chosen
    for choice in chosen:
        assert choice.cost_s > 0
        assert choice.interval_s == optimal_interval_s(choice.cost_s, MTBF_S)


def test_when_it_is_saved_changes_nothing_that_is_trained(folder: Path) -> None:
    assert_equal_bits(folder / "auto", folder / "fixed", 40)
