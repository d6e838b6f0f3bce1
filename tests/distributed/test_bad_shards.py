"""Whole trainings on shards that are missing, changed, or go bad under the run: refused, or left out in bounds."""

import contextlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast
from unittest import mock

import pytest

from dist_seg.checkpoint.reading import load_meta
from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.cli.main import main
from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.distributed.collectives import on_main
from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.world import World
from dist_seg.runs.audit import audit
from dist_seg.telemetry.events import BadShardFound, Event, StepDone
from dist_seg.telemetry.jsonl import read_events
from tests.distributed.ranks import launch_ranks
from tests.distributed.training import SMALL, assert_equal_bits

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]  # one fixture runs all the trainings

_RUN = [
    "train.global_batch=8",
    "train.max_steps=4",
    "train.num_threads=1",
    "checkpoint.interval_steps=1",
    "checkpoint.keep_last=9",
]
_GONE = ["train-000001.tar", "train-000003.tar"]
_GONE_OF_VAL = "val-000000.tar"
_ALLOWED = "eval.allow_bad_samples=true"
_CHANGED = "train-000002.tar"
SIZES = (2, 3)

Found = Mapping[str, Mapping[str, object]]


def command(*arguments: str) -> dict[str, object]:
    """Code and words, called as from a shell; without the report, which takes longest."""
    words = io.StringIO()
    with (
        contextlib.redirect_stderr(words),
        mock.patch("dist_seg.report.render.render_report"),
        # One group for all commands of a test: a new one each would meet the last one's store on its port.
        mock.patch("dist_seg.training.session.process_group", return_value=contextlib.nullcontext()),
        mock.patch("dist_seg.commands.evaluate.process_group", return_value=contextlib.nullcontext()),
    ):
        code = main(list(arguments))
    return {"code": code, "words": words.getvalue()}


def train(shards: str, run_dir: str, *extra: str) -> dict[str, object]:
    return command("train", f"data.shards={shards}", f"run.dir={run_dir}", *SMALL, *_RUN, *extra)


class ChangesShard:
    """A sink that overwrites a shard once the second step is done, in place and as long as it was."""

    def __init__(self, tar: Path) -> None:
        self._tar = tar

    def emit(self, event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            overwrite(self._tar)

    def close(self) -> None:
        pass


def changes_shard(run_dir: Path) -> ChangesShard:
    return ChangesShard(run_dir.parent / "shards to be changed" / _CHANGED)


def overwrite(tar: Path) -> None:
    size = tar.stat().st_size
    with tar.open("r+b") as file:
        file.write(bytes(size))


def train_on_bad_shards(world: World, shards: str, folder: str) -> dict[str, object]:
    """By what was tried, how it ended on this rank."""
    with process_group(world, timeout_s=120):
        found: dict[str, object] = {
            "left out": train(f"{shards}/gone", f"{folder}/left out", "data.max_bad_shards=2", _ALLOWED),
            "changed": train(f"{shards}/changed", f"{folder}/changed", "data.max_bad_shards=1"),
        }
        return found if world.size == 3 else {**found, **_train_on(shards, folder)}


def _train_on(shards: str, folder: str) -> dict[str, object]:
    found: dict[str, object] = {}
    found["refused"] = train(f"{shards}/gone", f"{folder}/refused")
    found["goes bad"] = train(
        f"{folder}/shards to be changed", f"{folder}/goes bad", f"telemetry.sinks=[{__name__}:changes_shard]"
    )
    on_main(lambda: str(_cut_off(Path(folder, "changed"), Path(folder, "resumed"), 2)))
    found["resumed"] = train(f"{shards}/changed", f"{folder}/resumed", "data.max_bad_shards=1")
    found["val refused"] = train(f"{shards}/gone", f"{folder}/val refused", "data.max_bad_shards=2")
    found["eval refused"] = command("eval", f"{folder}/changed", "--data", f"{shards}/gone")
    found["eval left out"] = command("eval", f"{folder}/changed", "--data", f"{shards}/gone", "--allow-bad")
    return found


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets of 24 training and 4 validation images in shards of about 5."""
    folder = tmp_path_factory.mktemp("bad-shards")
    pack(
        SyntheticSource(num_train=24, num_val=4, height=48, width=64), folder / "whole", PackOptions(shard_bytes=30_000)
    )
    for name in ("gone", "changed"):
        shutil.copytree(folder / "whole", folder / name)
    for name in (*_GONE, _GONE_OF_VAL):
        (folder / "gone" / name).unlink()
    overwrite(folder / "changed" / _CHANGED)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Of the runs, by number of ranks."""
    return {size: tmp_path_factory.mktemp(f"bad-shards-{size}") for size in SIZES}


@pytest.fixture(scope="module")
def by_size(shards: Path, folders: dict[int, Path]) -> dict[int, list[Found]]:
    """By number of ranks, what every rank found."""
    function = f"{__name__}:train_on_bad_shards"
    shutil.copytree(shards / "whole", folders[2] / "shards to be changed")
    return {
        size: cast(list[Found], launch_ranks(function, size, folder, shards=str(shards), folder=str(folder)))
        for size, folder in folders.items()
    }


def _cut_off(run: Path, to: Path, step: int) -> Path:
    """A copy of a run as it was after a step."""
    shutil.copytree(run, to)
    store = CheckpointStore(to / "checkpoints")
    for later in [other for other in store.steps() if other > step]:
        shutil.rmtree(store.path(later))
    return to


def recorded(run: Path, step: int) -> Mapping[str, str]:
    return load_meta(CheckpointStore(run / "checkpoints").path(step)).bad_shards


def test_bad_shards_are_refused_before_the_first_step_and_all_named(
    by_size: dict[int, list[Found]], folders: dict[int, Path]
) -> None:
    for found in by_size[2]:
        assert found["refused"]["code"] == 2
    words = str(by_size[2][0]["refused"]["words"])
    assert all(f"{name}: is missing" in words for name in _GONE)
    assert "data.max_bad_shards=2" in words and "dist-seg verify" in words
    assert not (folders[2] / "refused").exists()


def test_those_within_the_bound_are_left_out_and_on_record(
    by_size: dict[int, list[Found]], folders: dict[int, Path]
) -> None:
    for size in SIZES:
        assert [found["left out"]["code"] for found in by_size[size]] == [0] * size
        assert recorded(folders[size] / "left out", 4) == dict.fromkeys(_GONE, "is missing")
        events = [record.event for record in read_events(folders[size] / "left out")]
        assert [event.shard for event in events if isinstance(event, BadShardFound)] == _GONE


@pytest.mark.usefixtures("by_size")
@pytest.mark.parametrize("run", ["left out", "changed"])
def test_batches_with_replacements_are_the_same_on_two_ranks_and_on_three(folders: dict[int, Path], run: str) -> None:
    result = audit(folders[2] / run, folders[3] / run)
    assert (result.compared_steps, result.batch_differs_at) == (4, None)


def test_a_changed_shard_is_found_at_its_first_sample_and_left_out_from_then_on(
    by_size: dict[int, list[Found]], folders: dict[int, Path]
) -> None:
    for size in SIZES:
        assert [found["changed"]["code"] for found in by_size[size]] == [0] * size
        (event,) = (e.event for e in read_events(folders[size] / "changed") if isinstance(e.event, BadShardFound))
        assert (event.shard, event.step) == (_CHANGED, 0)
        assert "have wrong checksums" in event.reason
        assert load_meta(CheckpointStore(folders[size] / "changed" / "checkpoints").path(4)).bad_samples == {}


def test_a_resumed_run_knows_the_shard_and_ends_with_the_bits_of_the_run_that_was_not_stopped(
    by_size: dict[int, list[Found]], folders: dict[int, Path]
) -> None:
    assert [found["resumed"]["code"] for found in by_size[2]] == [0, 0]
    assert audit(folders[2] / "changed", folders[2] / "resumed").batch_differs_at is None
    assert recorded(folders[2] / "resumed", 4).keys() == {_CHANGED}
    assert_equal_bits(folders[2] / "changed", folders[2] / "resumed", 4)


def test_a_shard_that_goes_bad_under_the_run_ends_it_with_the_last_step_saved(
    by_size: dict[int, list[Found]], folders: dict[int, Path]
) -> None:
    assert [found["goes bad"]["code"] for found in by_size[2]] == [2, 2]
    assert f"{_CHANGED}: was changed since it was packed" in str(by_size[2][0]["goes bad"]["words"])
    ended = json.loads((folders[2] / "goes bad" / "outcome.json").read_text())
    assert (ended["outcome"], ended["step"] >= 2) == ("failed", True)
    assert _CHANGED in ended["reason"]


def test_a_bad_shard_of_the_validation_split_is_an_error_unless_allowed(by_size: dict[int, list[Found]]) -> None:
    for found in by_size[2]:
        assert (found["val refused"]["code"], found["left out"]["code"]) == (2, 0)
    words = str(by_size[2][0]["val refused"]["words"])
    assert f"{_GONE_OF_VAL}: is missing" in words and _ALLOWED in words


def test_its_samples_are_named_as_left_out_of_the_score(
    by_size: dict[int, list[Found]], folders: dict[int, Path]
) -> None:
    document = json.loads((folders[2] / "left out" / "result.json").read_text())
    named = {sample["key"]: sample["shard"] for sample in document["left_out"]}
    assert set(named.values()) == {_GONE_OF_VAL}
    assert len(named) + document["images"] == 4


def test_eval_refuses_a_bad_shard_unless_allowed(by_size: dict[int, list[Found]], folders: dict[int, Path]) -> None:
    for found in by_size[2]:
        assert (found["eval refused"]["code"], found["eval left out"]["code"]) == (2, 0)
    assert "--allow-bad" in str(by_size[2][0]["eval refused"]["words"])
