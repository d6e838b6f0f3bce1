"""A training whose checkpoints lie in an S3 server, and whose own folder is lost."""

import shutil
from pathlib import Path

import pytest

from dist_seg.checkpoint.reading import load_checkpoint
from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.config.load import to_yaml
from dist_seg.distributed.world import World
from dist_seg.engine.stop import StopSignal
from dist_seg.errors import ConfigError
from dist_seg.runs.folder import RunFolder, check_same_run, open_run_folder, pick_checkpoint
from dist_seg.runs.model import load_trained
from dist_seg.telemetry.events import CheckpointFailed, Event, StepDone
from tests.distributed.training import small_config, train_on
from tests.faulty_store import Store
from tests.unit.checkpoint.states import differences


def test_a_run_goes_on_from_the_store_alone_and_ends_with_the_bits_of_the_undisturbed_one(
    synthetic_shards: Path, s3_url: str, faulty: Store, tmp_path: Path
) -> None:
    shards, run = str(synthetic_shards), tmp_path / "run"
    settings = ["checkpoint.interval_steps=2", f"checkpoint.dir={s3_url}"]
    train_on(World(), shards, str(tmp_path / "undisturbed"))
    failures: list[Event] = []

    def stop_after_3(event: Event, stop: StopSignal) -> None:
        stop.requested = stop.requested or (isinstance(event, StepDone) and event.step == 3)
        failures.extend([event] if isinstance(event, CheckpointFailed) else [])

    faulty.once_each("refuse")
    assert not train_on(World(), shards, str(run), settings, stop_after_3).complete
    assert CheckpointStore(s3_url).steps() == [2, 3]
    shutil.rmtree(run)
    faulty.once_each("refuse")
    started: list[int] = []
    train_on(
        World(),
        shards,
        str(run),
        settings,
        lambda event, stop: started.append(event.step) if isinstance(event, StepDone) else None,
    )
    assert (started, failures) == ([4, 5], [])
    undisturbed = load_checkpoint(CheckpointStore(tmp_path / "undisturbed" / "checkpoints").path(5))
    # The configurations differ in where the run and its checkpoints lie.
    assert differences(load_checkpoint(f"{s3_url}/step-00000005"), undisturbed) == ["meta"]

    config = small_config(shards, str(run), settings)
    RunFolder(path=run).write_text("config.yaml", to_yaml(config))
    picked = pick_checkpoint(open_run_folder(run, must_exist=True), "best")
    assert picked == f"{s3_url}/step-00000005"
    assert load_trained(picked, None, World().device).step == 5


def test_another_run_is_not_taken_up_from_a_store_whose_folder_is_gone(
    synthetic_shards: Path, s3_url: str, tmp_path: Path
) -> None:
    shards, settings = str(synthetic_shards), ["train.max_steps=1", f"checkpoint.dir={s3_url}"]
    train_on(World(), shards, str(tmp_path / "a"), settings)
    folder = RunFolder(path=tmp_path / "b", checkpoint_dir=s3_url)
    other = small_config(shards, str(tmp_path / "b"), [*settings, "optim.lr=0.5"])
    with pytest.raises(ConfigError, match=r"optim\.lr: 0\.001 there, 0\.5 here"):
        check_same_run(folder, other, "another")
