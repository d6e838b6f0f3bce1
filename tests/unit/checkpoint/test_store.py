import contextlib
import errno
import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch

from dist_seg.checkpoint.reading import load_checkpoint, load_weights
from dist_seg.checkpoint.state import CheckpointMeta, SnapshotBuffers, TrainingState
from dist_seg.checkpoint.store import CheckpointStore, Retention
from dist_seg.checkpoint.writer import CheckpointWriter
from dist_seg.errors import CheckpointError
from dist_seg.storage.files import PARTIAL_MARK


def state_of(step: int) -> TrainingState:
    torch.manual_seed(step)
    return TrainingState(
        meta=CheckpointMeta(
            step=step, config={"train": {"seed": 0}}, manifest={"hash": "abc"}, world_size=2, bad_samples={"k": "why"}
        ),
        model={"weight": torch.randn(3, 4), "steps": torch.tensor(step), "double": torch.randn(2, dtype=torch.float64)},
        ema={"weight": torch.randn(3, 4)},
        optimizer={"weight/exp_avg": torch.randn(3, 4), "weight/step": torch.tensor(float(step))},
    )


def test_what_was_saved_comes_back_to_the_bit(tmp_path: Path) -> None:
    state = state_of(7)
    loaded = load_checkpoint(CheckpointStore(tmp_path).save(state))
    assert loaded.meta == state.meta
    for part in ("model", "ema", "optimizer"):
        saved = getattr(state, part)
        assert getattr(loaded, part).keys() == saved.keys()
        assert all(torch.equal(getattr(loaded, part)[key], saved[key]) for key in saved)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "meta.json", "checksums.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_checkpoint_is_refused_and_the_one_before_taken(tmp_path: Path, name: str, damage: str) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state_of(1))
    file = Path(store.save(state_of(2)), name)
    content = bytearray(file.read_bytes())
    if damage == "delete":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step-00000002"):
        load_checkpoint(store.path(2))
    assert store.newest_whole() == store.path(1)


def test_unfinished_save_is_never_seen_and_swept_away(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    leftover = tmp_path / ".step-00000009.tmp-123"
    leftover.mkdir()
    assert store.steps() == []
    assert store.newest_whole() is None
    store.save(state_of(1))
    assert not leftover.exists()


def test_pickled_file_in_the_place_of_tensors_is_refused(tmp_path: Path) -> None:
    import hashlib
    import pickle

    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/owned",)

    folder = Path(CheckpointStore(tmp_path).save(state_of(1)))
    payload = pickle.dumps(Malicious())
    (folder / "model.safetensors").write_bytes(payload)
    checksums = json.loads((folder / "checksums.json").read_text())
    checksums["model.safetensors"] = hashlib.sha256(payload).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(checksums))
    with pytest.raises(CheckpointError, match="unreadable tensors"):
        load_checkpoint(folder)
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_with_the_sha256_sums_of_earlier_versions_is_read_and_its_damage_found(tmp_path: Path) -> None:
    import hashlib

    folder = Path(CheckpointStore(tmp_path).save(state_of(1)))
    names = json.loads((folder / "checksums.json").read_text())
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "checksums.json").write_text(json.dumps(sums))
    assert load_checkpoint(folder).meta.step == 1
    (folder / "ema.safetensors").write_bytes((folder / "ema.safetensors").read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: its content does not match"):
        load_checkpoint(folder)


def test_retention_keeps_the_last_the_best_and_every_nth(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in range(1, 11):
        store.save(state_of(step))
    store.record_score(2, 0.9)
    store.record_score(7, 0.5)
    store.prune(Retention(keep_last=2, keep_best=True, keep_every_steps=4))
    assert store.steps() == [2, 4, 8, 9, 10]
    assert store.best_step() == 2


def test_store_without_a_whole_checkpoint_is_an_error_and_not_a_new_start(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    Path(store.save(state_of(1)), "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="its only checkpoint is damaged"):
        store.newest_whole()


def test_another_history_sets_later_checkpoints_and_scores_aside(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (2, 4, 6):
        store.save(state_of(step))
        store.record_score(step, step / 10)
    assert store.begin_at(2) == [4, 6]
    assert store.steps() == [2]
    assert store.scores() == {2: 0.2}
    assert load_checkpoint(tmp_path / "superseded-1" / "step-00000004").meta.step == 4
    store.save(state_of(3))
    store.prune(Retention(keep_last=1, keep_best=False, keep_every_steps=0))
    assert store.steps() == [3]


def test_histories_that_were_set_aside_are_all_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for _ in range(2):
        store.save(state_of(4))
        store.begin_at(2)
    assert store.steps() == []
    assert [load_checkpoint(tmp_path / f"superseded-{n}" / "step-00000004").meta.step for n in (1, 2)] == [4, 4]


def test_going_on_from_the_last_step_sets_nothing_aside(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state_of(4))
    store.record_score(4, 0.5)
    assert store.begin_at(4) == []
    assert (store.steps(), store.scores()) == ([4], {4: 0.5})
    assert not list(tmp_path.glob("superseded-*"))


def test_checkpoints_that_cannot_be_set_aside_are_an_error_that_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state_of(4))

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(CheckpointError, match=r"superseded-1: .* cannot be set aside there: No space left on device"):
        store.begin_at(2)


def test_score_that_cannot_be_written_is_an_error_that_leaves_the_others(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.record_score(2, 0.5)
    (tmp_path / f"scores.json{PARTIAL_MARK}{os.getpid()}").mkdir()
    with pytest.raises(CheckpointError, match=r"scores\.json: cannot be written"):
        store.record_score(4, 0.9)
    assert store.scores() == {2: 0.5}


def test_scores_that_are_no_numbers_are_read_and_never_the_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step, score in ((1, 0.5), (2, float("nan"))):
        store.save(state_of(step))
        store.record_score(step, score)
    assert (sorted(store.scores()), store.best_step()) == ([1, 2], 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "not JSON"), ("[1]", "expected object"), ('{"2": "high"}', "2 is 'high': expected float"), ('{"x": 1}', "")],
)
def test_scores_that_cannot_be_read_are_an_error_with_a_remedy(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"scores\.json: unreadable: .*{reason}.*; delete it, and the best"):
        CheckpointStore(tmp_path).scores()


def test_the_description_is_written_as_it_always_was(tmp_path: Path) -> None:
    """A run that an earlier version resumes finds the same bytes."""
    folder = Path(CheckpointStore(tmp_path).save(state_of(1)))
    assert (
        (folder / "meta.json").read_text()
        == """{
 "step": 1,
 "config": {
  "train": {
   "seed": 0
  }
 },
 "manifest": {
  "hash": "abc"
 },
 "world_size": 2,
 "bad_samples": {
  "k": "why"
 },
 "bad_shards": {},
 "nonfinite_in_a_row": 0,
 "loss_scale": 1.0,
 "loss_scale_good_steps": 0,
 "origin": "",
 "format_version": 1
}"""
    )


def test_a_description_of_before_there_were_bad_shards_is_read() -> None:
    text = b'{"step": 3, "config": {}, "manifest": {}, "world_size": 1, "loss_scale": 1, "format_version": 1}'
    meta = CheckpointMeta.parse(text, "meta.json")
    assert meta == CheckpointMeta(step=3, config={}, manifest={}, world_size=1)


def test_folders_are_not_synchronised_where_the_system_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse_folders(path: Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, mode)

    monkeypatch.delattr(os, "O_DIRECTORY")  # As on Windows, where a folder cannot be opened.
    monkeypatch.setattr(os, "open", refuse_folders)
    store = CheckpointStore(tmp_path)
    store.save(state_of(1))
    assert store.steps() == [1]


def test_other_format_version_is_refused(tmp_path: Path) -> None:
    folder = Path(CheckpointStore(tmp_path).save(state_of(1)))
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "format_version": 99}))
    with pytest.raises(CheckpointError, match=r"meta\.json"):
        load_checkpoint(folder)


def test_weights_take_the_average_where_there_is_one(tmp_path: Path) -> None:
    state = state_of(1)
    folder = CheckpointStore(tmp_path).save(state)
    assert torch.equal(load_weights(folder, "ema")["weight"], state.ema["weight"])
    assert torch.equal(load_weights(folder, "ema")["double"], state.model["double"])
    assert torch.equal(load_weights(folder, "raw")["weight"], state.model["weight"])


def test_folder_that_cannot_be_written_is_an_error_that_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state_of(1))
    (tmp_path / f".step-00000002.tmp-{os.getpid()}").write_text("in the way")
    blocked = CheckpointStore(tmp_path / "step-00000001" / "meta.json")
    with pytest.raises(CheckpointError, match="could not be written"):
        blocked.save(state_of(2))
    assert load_checkpoint(store.path(1)).meta.step == 1


KEEP_LAST = Retention(keep_last=1, keep_best=False, keep_every_steps=0)


class Heard:
    """Takes down what a writer says of its saves."""

    def __init__(self) -> None:
        self.saves: list[int] = []
        self.failures: list[tuple[int, str]] = []

    def saved(self, step: int, path: str, stall_s: float, write_s: float) -> None:
        self.saves.append(step)

    def failed(self, step: int, reason: str) -> None:
        self.failures.append((step, reason))


def test_writer_saves_what_the_state_was_when_it_was_taken(tmp_path: Path) -> None:
    store, heard = CheckpointStore(tmp_path), Heard()
    weight = torch.zeros(1000)
    writer = CheckpointWriter(store, KEEP_LAST, heard)

    def state(step: int, buffers: SnapshotBuffers) -> TrainingState:
        return TrainingState(
            meta=state_of(step).meta, model=buffers.snapshot("model", [("w", weight)]), ema={}, optimizer={}
        )

    for step in (1, 2):
        writer.save(partial(state, step))
        weight += 1
    writer.wait()
    writer.close()
    assert heard.saves == [1, 2]
    assert store.steps() == [2]
    assert torch.equal(load_checkpoint(store.path(2)).model["w"], torch.ones(1000))


def test_writer_tells_of_a_failed_save_and_forgets_it_once_a_later_one_is_whole(tmp_path: Path) -> None:
    store, heard = CheckpointStore(tmp_path / "checkpoints"), Heard()
    writer = CheckpointWriter(store, KEEP_LAST, heard)
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    writer.save(lambda buffers: state_of(1))
    with pytest.raises(CheckpointError, match="step-00000001: the checkpoint could not be written"):
        writer.wait()
    assert ([step for step, _ in heard.failures], writer.failure is None, writer.last_step) == ([1], False, None)
    (tmp_path / "checkpoints").unlink()
    writer.save(lambda buffers: state_of(2))
    writer.wait()
    writer.close()
    assert (heard.saves, writer.failure, writer.last_step) == ([2], None, 2)


def test_failed_save_does_not_keep_the_next_one_from_being_written(tmp_path: Path) -> None:
    store, heard = CheckpointStore(tmp_path / "checkpoints"), Heard()
    writer = CheckpointWriter(store, KEEP_LAST, heard)
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    writer.save(lambda buffers: state_of(1))
    while not heard.failures:
        with contextlib.suppress(CheckpointError):
            writer.poll()
    (tmp_path / "checkpoints").unlink()
    writer.save(lambda buffers: state_of(2))
    writer.close()
    assert store.steps() == [2]
