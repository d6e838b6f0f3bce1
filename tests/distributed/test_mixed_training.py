"""Mixed, folded and sampled training: the same batches on one rank and on two, and after a stop in between."""

import json
from pathlib import Path

import pytest

from dist_seg.distributed.world import World
from dist_seg.engine.stop import StopSignal
from dist_seg.runs.audit import audit
from dist_seg.telemetry.events import Event, StepDone
from tests.distributed.ranks import run_ranks
from tests.distributed.training import EXACT, assert_close_states, assert_equal_bits, losses, train_on
from tests.other_classes import pack_other

pytestmark = pytest.mark.distributed

STEPS = 4


def settings_of(kind: str, first: str, second: str) -> list[str]:
    """A mix by weight of parts of two data sets; or classes drawn from what a fold by group leaves."""
    settings = [*EXACT, f"train.max_steps={STEPS}", "eval.bootstrap_samples=5"]
    if kind == "sampled":
        chosen = ["data.folds=4", "data.fold=0", r"data.fold_by=\d$", "data.class_map.ring=disk"]
        return [*settings, "data.sampling=rare_class", "data.sampling_temperature=0.5", *chosen]
    members = [
        {"name": "one", "shards": first, "weight": 2, "class_map": {"cross": None, "disk": "round", "ring": "round"}},
        {"name": "two", "shards": second, "weight": 1},
    ]
    return [*settings, "data.shards=null", f"data.mix={json.dumps(members)}", "data.fraction=0.7"]


def train_all(world: World, first: str, second: str, runs: list[tuple[str, int]]) -> dict[str, list[object]]:
    """Both kinds in each folder, to the end or a stop after some step; the last results by folder's name."""
    return {Path(folder).name: train_kinds(world, first, second, folder, stop_at) for folder, stop_at in runs}


def train_kinds(world: World, first: str, second: str, folder: str, stop_at: int) -> list[object]:

    def on_event(event: Event, stop: StopSignal) -> None:
        if isinstance(event, StepDone) and event.step == stop_at:
            stop.requested = True

    results: list[object] = []
    for kind in ("mixed", "sampled"):
        outcome = train_on(world, first, f"{folder}/{kind}", settings_of(kind, first, second), on_event)
        results.append(None if outcome.result is None else outcome.result.document)
    return results


@pytest.fixture(scope="module")
def runs(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[object]]]:
    """A folder of runs on one rank, on two, and on one with a stop; and their results."""
    folder = tmp_path_factory.mktemp("mixed")
    class_map = {"disk": "round", "ring": "round", "triangle": "corner", "square": "corner", "cross": None}
    pack_other(folder / "second", ("corner", "round", "background"), class_map)
    function = "tests.distributed.test_mixed_training:train_all"
    data = {"first": str(synthetic_shards), "second": str(folder / "second")}
    results: dict[str, list[object]] = {}
    for ranks, names in ((1, [("alone", 0), ("parted", 2), ("parted", 0)]), (2, [("pair", 0)])):
        found = run_ranks(function, ranks, folder, **data, runs=[(str(folder / name), stop) for name, stop in names])
        assert all(part == found[0] for part in found) and isinstance(found[0], dict)
        results |= found[0]
    return folder, results


@pytest.mark.parametrize("kind", ["mixed", "sampled"])
def test_two_ranks_train_on_the_batches_of_one(runs: tuple[Path, dict[str, list[object]]], kind: str) -> None:
    folder, results = runs
    alone, pair = folder / "alone" / kind, folder / "pair" / kind
    found = audit(alone, pair)
    assert found.agrees and found.compared_steps == STEPS and not found.weights_compared
    assert losses(pair) == pytest.approx(losses(alone), rel=1e-9)
    assert_close_states(alone, pair, STEPS)
    (expected, result) = (results[name][("mixed", "sampled").index(kind)] for name in ("alone", "pair"))
    assert isinstance(expected, dict) and isinstance(result, dict)
    assert result["class_names"] == expected["class_names"] and result["images"] == expected["images"]


@pytest.mark.parametrize("kind", ["mixed", "sampled"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(runs: tuple[Path, dict[str, list[object]]], kind: str) -> None:
    folder, results = runs
    whole, parted = folder / "alone" / kind, folder / "parted" / kind
    assert_equal_bits(whole, parted, STEPS)
    found = audit(whole, parted)
    assert found.agrees and found.weights_compared and found.compared_steps == STEPS
    assert results["parted"] == results["alone"]
