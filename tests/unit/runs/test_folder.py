import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dist_seg.checkpoint.state import CheckpointMeta, TrainingState
from dist_seg.config.load import load_config, to_tree, to_yaml
from dist_seg.config.schema import Config
from dist_seg.engine.start import find_checkpoint
from dist_seg.errors import CheckpointError, ConfigError
from dist_seg.runs.folder import RunFolder, check_same_run, open_run_folder, pick_checkpoint

# Locks the run folder, forks a worker that outlives it, tells the worker's id and waits to be killed.
HOLDER = """
import os, sys, time
from pathlib import Path
from dist_seg.runs.folder import RunFolder

with RunFolder(path=Path(sys.argv[1]), checkpoint_dir=sys.argv[2] or None).locked():
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(600)
"""


@contextmanager
def another_process_training_in(path: Path, checkpoint_dir: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder's lock, as does a worker that it has forked."""
    arguments = [sys.executable, "-c", HOLDER, str(path), checkpoint_dir]
    holder = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    worker = int(holder.stdout.readline())
    try:
        yield holder
    finally:
        holder.kill()
        os.kill(worker, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


def save(folder: RunFolder, step: int) -> str:
    weight = {"weight": torch.full((2,), float(step))}
    meta = CheckpointMeta(step=step, config=to_tree(Config()), manifest={"hash": "abc"}, world_size=1)
    return folder.checkpoints.save(TrainingState(meta=meta, model=weight, ema={}, optimizer={}))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run with checkpoints of steps 2, 4 and 6, the second of them the best."""
    folder = RunFolder(path=tmp_path / "run")
    folder.write_text("config.yaml", to_yaml(Config()))
    for step, miou in ((2, 0.3), (4, 0.5), (6, 0.4)):
        save(folder, step)
        folder.checkpoints.record_score(step, miou)
    return folder


def test_second_process_is_refused_while_the_first_trains(tmp_path: Path) -> None:
    with (
        another_process_training_in(tmp_path / "run"),
        pytest.raises(CheckpointError, match="run: another process trains in this folder"),
        RunFolder(path=tmp_path / "run").locked(),
    ):
        pass


def test_second_run_is_refused_a_folder_of_checkpoints_that_another_writes_to(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    with another_process_training_in(tmp_path / "first", str(shared)) as holder:
        for given in (str(shared), f"file://{shared}"):
            second = RunFolder(path=tmp_path / "second", checkpoint_dir=given)
            with pytest.raises(CheckpointError, match=r"shared: another process writes its checkpoints there; .*\.dir"):
                second.locked().__enter__()
        with RunFolder(path=tmp_path / "second", checkpoint_dir=str(tmp_path / "other")).locked():
            pass
        holder.kill()
        holder.wait()
        with second.locked():
            pass


def test_lock_of_a_killed_process_is_free_though_its_workers_live(tmp_path: Path) -> None:
    with another_process_training_in(tmp_path / "run") as holder:
        holder.kill()
        holder.wait()
        with RunFolder(path=tmp_path / "run").locked():
            pass


def test_error_inside_the_lock_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError), RunFolder(path=tmp_path / "run").locked():
        raise TimeoutError


def test_folder_that_another_process_trains_in_is_not_moved_aside(tmp_path: Path) -> None:
    with another_process_training_in(tmp_path / "run"):
        with pytest.raises(CheckpointError, match="run: another process trains in this folder"):
            RunFolder(path=tmp_path / "run").move_aside()
        assert (tmp_path / "run").is_dir()


def test_folder_is_moved_aside_under_the_next_free_name(folder: RunFolder) -> None:
    folder.path.with_name("run.old-1").mkdir()
    aside = folder.move_aside()
    assert aside == folder.path.with_name("run.old-2")
    assert RunFolder(path=aside).checkpoints.steps() == [2, 4, 6]
    assert not folder.path.exists()


def test_nothing_is_moved_aside_where_nothing_lies(tmp_path: Path) -> None:
    assert RunFolder(path=tmp_path / "absent").move_aside() is None
    assert RunFolder(path=tmp_path).move_aside() is None


def test_folder_moved_aside_leaves_its_name_to_a_new_run(folder: RunFolder) -> None:
    folder.move_aside()
    with folder.locked():
        assert folder.checkpoints.steps() == []


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_run_folder_that_cannot_be_one_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    folder = RunFolder(path=tmp_path / name)
    with (
        pytest.raises(CheckpointError, match=f"{name}: no run can be written there: a file lies where"),
        folder.locked(),
    ):
        pass


def test_file_in_the_place_of_the_run_folder_is_not_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="file: cannot be moved aside"):
        RunFolder(path=tmp_path / "file").move_aside()


def test_file_of_a_run_that_cannot_be_written_is_named_and_leaves_no_rest(folder: RunFolder) -> None:
    (folder.path / "outcome.json").mkdir()
    before = sorted(path.name for path in folder.path.iterdir())
    with pytest.raises(CheckpointError, match=r"outcome\.json: cannot be written"):
        folder.write_json("outcome.json", {})
    assert sorted(path.name for path in folder.path.iterdir()) == before


def test_folder_without_a_run_is_refused_where_one_is_needed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no run here"):
        open_run_folder(tmp_path, must_exist=True)


@pytest.mark.parametrize(("which", "step"), [("best", 4), ("last", 6), ("2", 2), ("00000004", 4)])
def test_checkpoint_is_picked_by_name_or_step(folder: RunFolder, which: str, step: int) -> None:
    assert pick_checkpoint(folder, which) == folder.checkpoints.path(step)


@pytest.mark.parametrize("which", ["3", "-2", "worst", "", "2.0"])
def test_checkpoint_that_is_not_there_is_refused_with_those_that_are(folder: RunFolder, which: str) -> None:
    with pytest.raises(CheckpointError, match="there are: best, last, 2, 4, 6"):
        pick_checkpoint(folder, which)


def test_best_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(path=tmp_path)
    save(folder, 2)
    with pytest.raises(CheckpointError, match="use --checkpoint last"):
        pick_checkpoint(folder, "best")


def test_run_without_a_checkpoint_has_none_to_pick(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        pick_checkpoint(RunFolder(path=tmp_path), "last")


def test_auto_takes_up_the_newest_whole_checkpoint(folder: RunFolder) -> None:
    Path(folder.checkpoints.path(6), "model.safetensors").write_bytes(b"")
    assert resumed_from(folder, "auto") == folder.checkpoints.path(4)


def test_none_starts_anew_unless_the_launcher_restarts(folder: RunFolder) -> None:
    assert resumed_from(folder, "none") is None
    assert resumed_from(folder, "none", restarted=True) == folder.checkpoints.path(6)


def test_path_is_taken_up_unless_the_launcher_restarts(folder: RunFolder) -> None:
    wanted = folder.checkpoints.path(2)
    assert resumed_from(folder, wanted) == wanted
    assert resumed_from(folder, wanted, restarted=True) == folder.checkpoints.path(6)


def test_path_without_a_whole_checkpoint_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    Path(folder.checkpoints.path(2), "meta.json").write_text("{}")
    for wanted in (folder.checkpoints.path(2), tmp_path / "absent"):
        with pytest.raises(CheckpointError, match=str(wanted)):
            resumed_from(folder, str(wanted))


def resumed_from(folder: RunFolder, resume: str, *, restarted: bool = False) -> str | None:
    config = load_config([], [f"checkpoint.resume={resume}"])
    return find_checkpoint(config, folder.checkpoints, restarted=restarted)


def test_run_of_the_same_settings_is_taken_up(folder: RunFolder) -> None:
    check_same_run(folder, dataclasses.replace(Config(), eval=dataclasses.replace(Config().eval, flip=True)), "abc")


def test_data_that_lies_elsewhere_now_is_the_same_run_whether_mixed_or_not(folder: RunFolder) -> None:
    def of_mix(*places: str) -> Config:
        members = ", ".join(f"{{name: m{i}, shards: {place}}}" for i, place in enumerate(places))
        return load_config([], [f"data.mix=[{members}]"])

    folder.write_text("config.yaml", to_yaml(of_mix("here/a", "here/b")))
    check_same_run(folder, of_mix("there/a", "there/b"), "abc")
    with pytest.raises(ConfigError, match=r"data\.mix"):
        check_same_run(folder, of_mix("there/a", "there/b", "there/c"), "abc")


def test_run_of_other_settings_or_data_is_refused_with_the_differences(folder: RunFolder) -> None:
    other = dataclasses.replace(Config(), optim=dataclasses.replace(Config().optim, lr=0.5))
    with pytest.raises(ConfigError) as caught:
        check_same_run(folder, other, "xyz")
    assert "optim.lr: 0.001 there, 0.5 here" in str(caught.value)
    assert "manifest: abc there, xyz here" in str(caught.value)
