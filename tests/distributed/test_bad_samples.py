"""Undecodable samples in a running training: named once, by all ranks alike, over a resume, up to a bound."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast
from unittest import mock

import pytest

from dist_seg.checkpoint.reading import load_meta
from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.cli.main import main
from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.world import World
from dist_seg.engine.run_progress import Progress
from dist_seg.engine.stop import StopSignal
from dist_seg.runs.audit import audit
from dist_seg.telemetry.events import Event, StepDone
from tests.distributed.ranks import ending, launch_ranks
from tests.distributed.training import train_on
from tests.loader_cases import scene_sample, write_dataset

pytestmark = pytest.mark.distributed

BAD = {"cut-off", "garbage", "no-mask"}
# 24 samples, three steps an epoch: after the first epoch all of them have been met.
SETTINGS = [
    "data.val_split=train",
    "train.global_batch=8",
    "train.max_steps=5",
    "checkpoint.interval_steps=1",
    "checkpoint.keep_last=9",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three samples of 24 cannot be decoded, each in a shard of its own."""
    samples = [scene_sample(i, height=48, width=64) for i in range(24)]
    samples[2] = replace(samples[2], key="cut-off", image=samples[2].image[: len(samples[2].image) // 2])
    samples[11] = replace(samples[11], key="garbage", image=bytes(range(256)) * 4)
    samples[22] = replace(samples[22], key="no-mask", target=b"not a PNG")
    folder = tmp_path_factory.mktemp("damaged")
    write_dataset(folder, samples)
    return folder


def train_and_evaluate(world: World, shards: str, folder: str) -> dict[str, object]:
    """How trainings end on this rank, what it has on record during them, and exit codes of `dist-seg eval`."""
    progress: list[Progress] = []
    on_record: list[list[str]] = []

    def remembered(**fields: object) -> Progress:
        progress.append(Progress(**fields))  # type: ignore[arg-type]  # handed on as they come
        return progress[-1]

    def on_event(stop_at: int, event: Event, stop: StopSignal) -> None:
        if isinstance(event, StepDone):
            on_record.append(sorted(progress[-1].bad_samples))
            stop.requested = event.step == stop_at

    def train(name: str, settings: Sequence[str] = (), stop_at: int = 0) -> dict[str, object]:
        on_record.clear()
        all_settings = [*SETTINGS, *settings]
        end = ending(lambda: train_on(world, shards, f"{folder}/{name}", all_settings, partial(on_event, stop_at)))
        return {**end, "on_record": list(on_record)}

    found: dict[str, object] = {}
    with process_group(world, timeout_s=120), mock.patch("dist_seg.engine.build.Progress", remembered):
        found["whole"] = train("whole")
        if world.size > 1:
            found["stopped"] = train("resumed", stop_at=3)
            found["resumed"] = train("resumed")
            found["too many"] = train("too many", ["data.max_bad_samples=2"])
            found["just enough"] = train("just enough", ["data.max_bad_samples=3"])
    if world.size == 1:
        found["eval"] = {
            option: main(["eval", f"{folder}/whole", *option.split()])
            for option in ("", "--allow-bad", "eval.allow_bad_samples=true")
        }
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Of the runs, by number of ranks."""
    return {size: tmp_path_factory.mktemp(f"bad-samples-{size}") for size in (1, 2)}


Found = Mapping[str, Mapping[str, object]]


@pytest.fixture(scope="module")
def by_size(shards: Path, folders: dict[int, Path]) -> dict[int, list[Found]]:
    """By number of ranks, what every rank found."""
    function = f"{__name__}:train_and_evaluate"
    return {
        size: cast(list[Found], launch_ranks(function, size, folder, shards=str(shards), folder=str(folder)))
        for size, folder in folders.items()
    }


def recorded(run: Path, step: int) -> Mapping[str, str]:
    return load_meta(CheckpointStore(run / "checkpoints").path(step)).bad_samples


def test_every_bad_sample_is_named_in_the_checkpoint_with_its_reason(
    by_size: dict[int, list[Found]], folders: dict[int, Path]
) -> None:
    reasons = recorded(folders[2] / "whole", 5)
    assert reasons.keys() == BAD
    assert "cut off" in reasons["cut-off"]
    assert "neither a JPEG nor a PNG" in reasons["garbage"]
    assert reasons["no-mask"].startswith("mask: ")


def test_every_rank_has_the_same_set_after_every_step(by_size: dict[int, list[Found]]) -> None:
    first, second = (cast(list[list[str]], found["whole"]["on_record"]) for found in by_size[2])
    assert first == second
    assert len(first) == 5
    assert set(first[2]) == BAD


def test_the_set_is_that_of_one_rank(by_size: dict[int, list[Found]]) -> None:
    assert by_size[1][0]["whole"]["on_record"] == by_size[2][0]["whole"]["on_record"]


@pytest.mark.usefixtures("by_size")
def test_batches_with_replacements_are_the_same_on_one_rank_and_on_two(folders: dict[int, Path]) -> None:
    result = audit(folders[1] / "whole", folders[2] / "whole")
    assert (result.compared_steps, result.batch_differs_at) == (5, None)


def test_the_set_is_kept_over_a_resume(by_size: dict[int, list[Found]]) -> None:
    for found in by_size[2]:
        assert len(cast(list[object], found["stopped"]["on_record"])) == 3
        assert [set(names) for names in cast(list[list[str]], found["resumed"]["on_record"])] == [BAD, BAD]


def test_more_than_allowed_end_all_ranks_with_one_error(by_size: dict[int, list[Found]]) -> None:
    ends = [found["too many"] for found in by_size[2]]
    for end in ends:
        assert cast(list[str], end["classes"])[0] == "DataError"
        assert "3 training samples could not be decoded, more than data.max_bad_samples=2" in str(end["text"])
        assert all(key in str(end["text"]) for key in BAD)
    assert ends[0] == ends[1]


def test_as_many_as_allowed_do_not_end_the_run(by_size: dict[int, list[Found]]) -> None:
    assert [found["just enough"]["text"] for found in by_size[2]] == ["", ""]


@pytest.mark.parametrize(("option", "code"), [("", 1), ("--allow-bad", 0), ("eval.allow_bad_samples=true", 0)])
def test_evaluation_that_left_samples_out_exits_1_unless_allowed(
    by_size: dict[int, list[Found]], option: str, code: int
) -> None:
    assert by_size[1][0]["eval"][option] == code


@pytest.mark.usefixtures("by_size")
def test_evaluation_names_what_it_left_out(folders: dict[int, Path]) -> None:
    document = json.loads((folders[1] / "whole" / "eval-train.json").read_text())
    assert document["images"] == 24 - len(BAD)
    assert {sample["key"] for sample in document["left_out"]} == BAD
