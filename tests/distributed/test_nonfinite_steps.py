"""A step whose loss or gradient is not finite on one lane: skipped by all ranks, as if it had not been."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file

from dist_seg.checkpoint.reading import load_meta
from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.data.loading.batch import Batch
from dist_seg.distributed.world import World
from dist_seg.engine.stop import StopSignal
from dist_seg.telemetry.events import Event, NonFiniteStep, StepDone
from dist_seg.telemetry.jsonl import read_events
from tests.distributed.ranks import ending, run_ranks
from tests.distributed.tampering import changed_batches
from tests.distributed.training import train_on

pytestmark = pytest.mark.distributed

# Each on one of the eight lanes, of which rank 0 has the first four: step 3 fails on rank 1, step 4 on rank 0.
POISONED_LANES = {3: 5, 4: 0}
SKIPPED = [False, False, True, True, False, False]
KINDS = ("images", "gradient")
PARTS = ("model", "ema", "optimizer")

_in_gradient: set[str] = set()
"""Holds a word while the custom loss is to have a gradient that is not finite."""


def finite_with_poisoned_gradient(logits: torch.Tensor, targets: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """0, with the gradient 0; or with that of a root at 0, NaN."""
    zero = (logits * 0).sum()
    return zero.sqrt() if _in_gradient else zero


def poison(kind: str, lanes: Mapping[int, int], drawn: dict[int, list[str]], step: int, lane: int, b: Batch) -> Batch:
    """Spoils the chosen lane of every chosen step (the first is 1), and notes its keys."""
    _in_gradient.clear()
    if lanes.get(step + 1) != lane:
        return b
    drawn[step + 1] = list(b.keys)
    if kind == "images":
        return replace(b, images=torch.full_like(b.images, torch.nan))
    _in_gradient.add("now")
    return b


def train_poisoned(
    world: World,
    shards: str,
    run_dir: str,
    kind: str,
    lanes: Mapping[int, int],
    stop_at: int = 0,
    most: int = 3,
    engine: Sequence[str] = (),
) -> dict[str, object]:
    drawn: dict[int, list[str]] = {}
    settings = [
        *engine,
        "train.max_steps=6",
        f"train.max_nonfinite_steps={most}",
        "train.ema_decay=0.9",
        "checkpoint.interval_steps=1",
        "checkpoint.keep_last=9",
        f"loss.custom={__name__}:finite_with_poisoned_gradient",
    ]

    def on_event(event: Event, stop: StopSignal) -> None:
        if isinstance(event, StepDone) and event.step == stop_at:
            stop.requested = True

    with changed_batches(partial(poison, kind, lanes, drawn)):
        end = ending(lambda: train_on(world, shards, run_dir, settings, on_event))
    return {**end, "drawn": [drawn.get(step, []) for step in range(1, 7)]}


def train_all(world: World, shards: str, folder: str) -> dict[str, object]:
    found: dict[str, object] = {
        kind: train_poisoned(world, shards, f"{folder}/{kind}", kind, POISONED_LANES) for kind in KINDS
    }
    found["stopped"] = train_poisoned(world, shards, f"{folder}/resumed", "images", POISONED_LANES, stop_at=4)
    found["resumed"] = train_poisoned(world, shards, f"{folder}/resumed", "images", {5: 7})
    found["most"] = train_poisoned(world, shards, f"{folder}/most", "images", POISONED_LANES, most=2)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the runs, by name."""
    return tmp_path_factory.mktemp("nonfinite")


@pytest.fixture(scope="module")
def of_rank(synthetic_shards: Path, folder: Path) -> list[Mapping[str, Mapping[str, object]]]:
    """By rank, how the runs of every name ended, and the keys of the lanes that were poisoned there, by step."""
    found = run_ranks(f"{__name__}:train_all", 2, folder, shards=str(synthetic_shards), folder=str(folder))
    return cast(list[Mapping[str, Mapping[str, object]]], found)


def checkpoint(run: Path, step: int) -> Path:
    return Path(CheckpointStore(run / "checkpoints").path(step))


def changed_between(run: Path, part: str, step_a: int, step_b: int) -> list[str]:
    """The tensors that are not equal to the bit at two steps."""
    a, b = (load_file(checkpoint(run, step) / f"{part}.safetensors") for step in (step_a, step_b))
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.usefixtures("of_rank")
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_skip_the_same_steps(folder: Path, kind: str, rank: int) -> None:
    steps = [r.event for r in read_events(folder / kind, rank) if isinstance(r.event, StepDone)]
    assert [step.skipped for step in steps] == SKIPPED


@pytest.mark.usefixtures("of_rank")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_step_leaves_everything_as_it_was(folder: Path, kind: str, part: str) -> None:
    assert changed_between(folder / kind, part, 2, 3) == []
    assert changed_between(folder / kind, part, 2, 4) == []


@pytest.mark.usefixtures("of_rank")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_after_the_skipped_ones_count_again(folder: Path, kind: str, part: str) -> None:
    tensors = load_file(checkpoint(folder / kind, 5) / f"{part}.safetensors")
    assert sorted(changed_between(folder / kind, part, 4, 5)) == sorted(tensors)


@pytest.mark.usefixtures("of_rank")
def test_batch_norm_counts_only_the_steps_that_were_made(folder: Path) -> None:
    tensors = load_file(checkpoint(folder / "images", 6) / "model.safetensors")
    assert int(tensors["encoder.1.num_batches_tracked"]) == SKIPPED.count(False)


@pytest.mark.parametrize(("step", "rank"), [(3, 1), (4, 0)])
def test_the_event_names_the_keys_of_the_lane_at_fault(
    of_rank: list[Mapping[str, Mapping[str, object]]], folder: Path, step: int, rank: int
) -> None:
    drawn = cast(Sequence[Sequence[str]], of_rank[rank]["images"]["drawn"])[step - 1]
    assert len(drawn) == 2
    assert set(drawn) <= set(named(folder / "images", rank)[step])


@pytest.mark.usefixtures("of_rank")
def test_the_events_of_all_ranks_name_the_whole_batch(folder: Path) -> None:
    first, second = (named(folder / "images", rank) for rank in (0, 1))
    assert first.keys() == second.keys() == {3, 4}
    assert all(len(first[step]) == len(second[step]) == 8 for step in first)
    assert all(len({*first[step], *second[step]}) == 16 for step in first)


def named(run: Path, rank: int) -> dict[int, Sequence[str]]:
    """The keys in a rank's events of skipped steps."""
    return {r.event.step: r.event.keys for r in read_events(run, rank) if isinstance(r.event, NonFiniteStep)}


@pytest.mark.usefixtures("of_rank")
def test_skipped_steps_are_counted_in_a_row(folder: Path) -> None:
    counts = [load_meta(checkpoint(folder / "images", step)).nonfinite_in_a_row for step in range(1, 7)]
    assert counts == [0, 0, 1, 2, 0, 0]


def test_the_count_goes_on_over_a_resume(of_rank: list[Mapping[str, Mapping[str, object]]]) -> None:
    for found in of_rank:
        assert found["stopped"]["text"] == ""
        assert "not finite in 3 steps in a row" in str(found["resumed"]["text"])


@pytest.mark.parametrize(("name", "last_whole"), [("most", 3), ("resumed", 4)])
def test_too_many_in_a_row_end_all_ranks_before_the_checkpoint(
    of_rank: list[Mapping[str, Mapping[str, object]]], folder: Path, name: str, last_whole: int
) -> None:
    for found in of_rank:
        assert cast(list[str], found[name]["classes"])[0] == "RunFailedError"
    assert CheckpointStore(folder / name / "checkpoints").steps()[-1] == last_whole
