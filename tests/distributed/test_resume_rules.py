"""What a start takes up, by `checkpoint.resume` and the options of `train`, and what it refuses, in whole commands."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from dist_seg.checkpoint.reading import load_meta
from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.cli.main import main
from dist_seg.config.schema import Config
from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.packing.pack import pack
from dist_seg.distributed.world import World
from dist_seg.runs.folder import RunFolder
from dist_seg.telemetry.events import RunStarted
from dist_seg.telemetry.jsonl import read_log
from tests.distributed.ranks import launch_ranks
from tests.distributed.training import SMALL

pytestmark = pytest.mark.distributed

_RUN = ["train.max_steps=6", "checkpoint.interval_steps=2", "checkpoint.keep_last=9", "train.num_threads=1"]


def train(shards: str, run_dir: str, *extra: str) -> dict[str, object]:
    """Code and words of the command, called as from a shell; without its report, which takes longest."""
    words = io.StringIO()
    with contextlib.redirect_stderr(words), mock.patch("dist_seg.report.render.render_report"):
        code = main(["train", f"data.shards={shards}", f"run.dir={run_dir}", *SMALL, *_RUN, *extra])
    return {"code": code, "words": words.getvalue()}


def train_all(world: World, shards: str, other_shards: str, folder: str) -> dict[str, object]:
    def copied(name: str) -> str:
        """The complete run in another folder."""
        return str(shutil.copytree(f"{folder}/plain", f"{folder}/{name}"))

    found: dict[str, object] = {"plain": train(shards, f"{folder}/plain")}

    run = copied("changed")
    found["changed, refused"] = train(shards, run, "optim.lr=0.5", "train.max_steps=8")
    found["changed"] = train(shards, run, "optim.lr=0.5", "train.max_steps=8", "--resume-with-changes")

    run = copied("anew")
    found["anew"] = train(shards, run, "checkpoint.resume=none")

    source = CheckpointStore(Path(folder, "plain", "checkpoints")).path(4)
    found["from path"] = train(shards, f"{folder}/from path", f"checkpoint.resume={source}")
    found["from nowhere"] = train(shards, f"{folder}/from nowhere", "checkpoint.resume=nowhere/step-00000004")

    run = copied("back")
    back = CheckpointStore(Path(run, "checkpoints")).path(2)
    found["back"] = train(shards, run, f"checkpoint.resume={back}", "train.max_steps=4", "--resume-with-changes")

    run, elsewhere = f"{folder}/elsewhere", f"checkpoint.dir={folder}/its checkpoints"
    found["elsewhere"] = train(shards, run, elsewhere)
    found["left behind"] = train(shards, run)
    found["fresh elsewhere"] = train(shards, run, elsewhere, "--fresh")

    run = copied("restarted")
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"
    found["restarted"] = train(shards, run, "checkpoint.resume=none")
    del os.environ["TORCHELASTIC_RESTART_COUNT"]

    run = copied("other data")
    found["other data, refused"] = train(other_shards, run)
    found["other data"] = train(other_shards, run, "train.max_steps=7", "--resume-with-changes")
    return found


def train_locked(world: World, shards: str, run_dir: str) -> dict[str, object]:
    return {"plain": train(shards, run_dir), "fresh": train(shards, run_dir, "--fresh")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the runs, by name."""
    return tmp_path_factory.mktemp("resume_rules")


@pytest.fixture(scope="module")
def ended(
    synthetic_shards: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Mapping[str, object]]:
    """How the commands ended, by name."""
    other = tmp_path_factory.mktemp("other_shards")
    pack(SyntheticSource(num_train=24, num_val=8, height=96, width=128, seed=1), other)
    (found,) = launch_ranks(
        f"{__name__}:train_all",
        1,
        folder,
        shards=str(synthetic_shards),
        other_shards=str(other),
        folder=str(folder),
    )
    return cast(Mapping[str, Mapping[str, object]], found)


def starts(run: Path) -> list[int]:
    """The steps at which the commands in a folder began."""
    return [record.event.step for record in read_log(run) if isinstance(record.event, RunStarted)]


def stored_config(run: Path) -> Config:
    config = RunFolder(path=run).stored_config()
    assert config is not None
    return config


def assert_same_weights(run_a: Path, run_b: Path, step: int) -> None:
    a, b = (load_file(f"{CheckpointStore(run / 'checkpoints').path(step)}/model.safetensors") for run in (run_a, run_b))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def steps_set_aside(run: Path) -> Sequence[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("superseded-*/step-*"))


def test_checkpoints_lie_where_the_configuration_says(ended: Mapping[str, Mapping[str, object]], folder: Path) -> None:
    assert ended["elsewhere"]["code"] == 0
    assert not (folder / "elsewhere" / "checkpoints").exists()
    assert CheckpointStore(folder / "its checkpoints").steps() == [2, 4, 6]


def test_a_run_whose_checkpoints_lie_elsewhere_is_not_begun_anew_without_a_word(
    ended: Mapping[str, Mapping[str, object]], folder: Path
) -> None:
    assert ended["left behind"]["code"] == 2
    assert f"holds a run whose checkpoints are in {folder}/its checkpoints" in str(ended["left behind"]["words"])


def test_fresh_sets_checkpoints_aside_that_lie_elsewhere(
    ended: Mapping[str, Mapping[str, object]], folder: Path
) -> None:
    assert ended["fresh elsewhere"]["code"] == 0
    assert starts(folder / "elsewhere") == [0]
    assert CheckpointStore(folder / "its checkpoints" / "superseded-1").steps() == [2, 4, 6]


def test_changes_are_refused_without_the_option(ended: Mapping[str, Mapping[str, object]]) -> None:
    assert ended["changed, refused"]["code"] == 2
    assert "optim.lr: 0.001 there, 0.5 here" in str(ended["changed, refused"]["words"])


def test_changes_are_taken_up_with_the_option_where_the_run_had_come_to(
    ended: Mapping[str, Mapping[str, object]], folder: Path
) -> None:
    assert ended["changed"]["code"] == 0
    assert starts(folder / "changed") == [0, 6]
    assert CheckpointStore(folder / "changed" / "checkpoints").steps() == [2, 4, 6, 8]
    assert stored_config(folder / "changed").optim.lr == 0.5


def test_resume_none_trains_from_the_beginning(ended: Mapping[str, Mapping[str, object]], folder: Path) -> None:
    assert ended["anew"]["code"] == 0
    assert starts(folder / "anew") == [0, 0]
    assert_same_weights(folder / "anew", folder / "plain", 6)


@pytest.mark.usefixtures("ended")
def test_resume_none_sets_the_checkpoints_of_before_aside(folder: Path) -> None:
    assert steps_set_aside(folder / "anew") == ["step-00000002", "step-00000004", "step-00000006"]
    assert CheckpointStore(folder / "anew" / "checkpoints").steps() == [2, 4, 6]


def test_resume_from_a_path_goes_on_with_another_runs_state(
    ended: Mapping[str, Mapping[str, object]], folder: Path
) -> None:
    assert ended["from path"]["code"] == 0
    assert starts(folder / "from path") == [4]
    assert_same_weights(folder / "from path", folder / "plain", 6)


@pytest.mark.usefixtures("ended")
def test_resume_from_a_path_leaves_the_other_run_alone(folder: Path) -> None:
    assert CheckpointStore(folder / "plain" / "checkpoints").steps() == [2, 4, 6]
    assert steps_set_aside(folder / "plain") == []


def test_resume_from_a_path_that_is_no_checkpoint_is_refused(ended: Mapping[str, Mapping[str, object]]) -> None:
    assert ended["from nowhere"]["code"] == 2
    assert "nowhere/step-00000004" in str(ended["from nowhere"]["words"])


def test_resume_from_an_earlier_checkpoint_of_the_run_sets_the_later_ones_aside(
    ended: Mapping[str, Mapping[str, object]], folder: Path
) -> None:
    assert ended["back"]["code"] == 0
    assert starts(folder / "back") == [0, 2]
    assert steps_set_aside(folder / "back") == ["step-00000004", "step-00000006"]
    assert CheckpointStore(folder / "back" / "checkpoints").steps() == [2, 4]


@pytest.mark.usefixtures("ended")
def test_scores_of_steps_that_were_set_aside_are_forgotten(folder: Path) -> None:
    assert CheckpointStore(folder / "plain" / "checkpoints").scores().keys() == {6}
    assert CheckpointStore(folder / "back" / "checkpoints").scores().keys() == {4}


def test_ranks_that_the_launcher_restarts_go_on_whatever_resume_says(
    ended: Mapping[str, Mapping[str, object]], folder: Path
) -> None:
    assert ended["restarted"]["code"] == 0
    assert starts(folder / "restarted") == [0, 6]


def test_another_manifest_is_refused(ended: Mapping[str, Mapping[str, object]]) -> None:
    assert ended["other data, refused"]["code"] == 2
    assert "data's manifest" in str(ended["other data, refused"]["words"])


def test_another_manifest_is_taken_up_with_the_option(ended: Mapping[str, Mapping[str, object]], folder: Path) -> None:
    assert ended["other data"]["code"] == 0
    assert starts(folder / "other data") == [0, 6]
    hashes = {
        step: load_meta(CheckpointStore(folder / "other data" / "checkpoints").path(step)).manifest["hash"]
        for step in (6, 7)
    }
    assert hashes[6] != hashes[7]


def test_a_second_process_in_a_folder_is_refused_and_changes_nothing(synthetic_shards: Path, tmp_path: Path) -> None:
    run = RunFolder(path=tmp_path / "run")
    with run.locked():
        run.write_json("outcome.json", {"outcome": "running"})
        found = launch_ranks(
            f"{__name__}:train_locked", 1, tmp_path, shards=str(synthetic_shards), run_dir=str(run.path)
        )
        for end in cast(Mapping[str, Mapping[str, object]], found[0]).values():
            assert end["code"] == 2
            assert "another process trains in this folder" in str(end["words"])
        assert sorted(path.name for path in run.path.iterdir()) == ["outcome.json", "run.lock"]
        assert json.loads((run.path / "outcome.json").read_text()) == {"outcome": "running"}
