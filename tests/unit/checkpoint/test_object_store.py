"""Checkpoints in an S3 server, and through what happens to requests on their way."""

import dataclasses
from pathlib import Path

import pytest
import torch

from dist_seg.checkpoint import reading as reading_module
from dist_seg.checkpoint.reading import load_checkpoint, load_meta, verify_checkpoint
from dist_seg.checkpoint.state import CheckpointMeta, TrainingState
from dist_seg.checkpoint.store import CheckpointStore, Retention
from dist_seg.errors import CheckpointError
from dist_seg.storage import object_store as storage_module
from tests.faulty_store import Fault, Store
from tests.unit.checkpoint.states import differences, state_of

_MIB = 2**20


@pytest.fixture
def large_state(monkeypatch: pytest.MonkeyPatch) -> TrainingState:
    """Whose weights take three pieces, up and down. Pieces of an upload are no smaller than S3 allows."""
    monkeypatch.setattr(storage_module, "_UPLOAD_PIECE_BYTES", 5 * _MIB)
    monkeypatch.setattr(reading_module, "PIECE_BYTES", 5 * _MIB)
    return dataclasses.replace(state_of(1), model={"weight": torch.arange(11 * _MIB // 4)})


def test_what_was_saved_comes_back_to_the_bit(s3_url: str) -> None:
    assert differences(load_checkpoint(CheckpointStore(s3_url).save(state_of(7))), state_of(7)) == []


def test_large_parts_go_up_in_pieces_and_come_back_to_the_bit(
    s3_url: str, faulty: Store, large_state: TrainingState
) -> None:
    loaded = load_checkpoint(CheckpointStore(s3_url).save(large_state))
    assert any("partNumber=3" in path for _, path in faulty.requests)
    assert differences(loaded, large_state) == []


def test_the_checksums_are_put_when_everything_else_is_there(s3_url: str, faulty: Store) -> None:
    CheckpointStore(s3_url).save(state_of(1))
    put = [path.rpartition("/")[2] for method, path in faulty.requests if method == "PUT"]
    assert put == ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "meta.json", "checksums.json"]


def test_parts_without_a_commit_are_no_checkpoint_and_are_swept_by_the_next_save(s3_url: str) -> None:
    store, storage = CheckpointStore(s3_url), storage_module.open_writable(s3_url)
    store.save(state_of(1))
    storage.write("step-00000002/model.safetensors", [b"half"])
    assert (store.steps(), store.newest_whole()) == ([1], store.path(1))
    store.save(state_of(3))
    assert not [name for name in storage.list_below() if name.startswith("step-00000002")]


def test_a_step_that_is_saved_again_is_replaced(s3_url: str) -> None:
    store, again = CheckpointStore(s3_url), state_of(2)
    store.save(state_of(1))
    again = TrainingState(
        meta=CheckpointMeta(step=1, config={}, manifest={}, world_size=1), model=again.model, ema={}, optimizer={}
    )
    store.save(again)
    assert differences(load_checkpoint(store.path(1)), again) == []


def test_retention_keeps_the_last_the_best_and_every_nth(s3_url: str) -> None:
    store = CheckpointStore(s3_url)
    for step in range(1, 8):
        store.save(state_of(step))
    store.record_score(2, 0.9)
    store.record_score(5, 0.5)
    assert store.prune(Retention(keep_last=1, keep_best=True, keep_every_steps=4)) == [1, 3, 5, 6]
    left = storage_module.open_writable(s3_url).list_below()
    assert sorted({name.split("/")[0] for name in left}) == [
        "scores.json",
        "step-00000002",
        "step-00000004",
        "step-00000007",
    ]


def test_another_history_sets_later_checkpoints_and_scores_aside(s3_url: str) -> None:
    store = CheckpointStore(s3_url)
    for step in (2, 4):
        store.save(state_of(step))
        store.record_score(step, step / 10)
    assert store.begin_at(2) == [4]
    assert (store.steps(), store.scores(), store.best_step()) == ([2], {2: 0.2}, 2)
    assert differences(load_checkpoint(f"{s3_url}/superseded-1/step-00000004"), state_of(4)) == []
    store.save(state_of(4))
    assert store.begin_at(2) == [4]
    verify_checkpoint(f"{s3_url}/superseded-2/step-00000004")


@pytest.mark.parametrize("fault", ["refuse", "delay", "reset", "cut"])
def test_every_first_request_may_fail(s3_url: str, faulty: Store, fault: Fault) -> None:
    store, state = CheckpointStore(s3_url), state_of(1)
    store.save(state_of(0))
    # A deletion that was cut off may have been done: whether it is sent again is for the server's owner to say.
    faulty.once_each(fault, "" if fault in ("refuse", "delay") else "GET")
    store.save(state)
    store.record_score(1, 0.5)
    assert store.newest_whole() == store.path(1)
    assert differences(load_checkpoint(store.path(1)), state) == []
    assert store.best_step() == 1
    assert faulty.faults > 3


@pytest.mark.parametrize("fault", ["reset", "cut"])
def test_uploads_may_lose_their_connection(
    s3_url: str, faulty: Store, fault: Fault, large_state: TrainingState
) -> None:
    store, state = CheckpointStore(s3_url), large_state
    faulty.once_each(fault, "PUT")
    store.save(state)
    assert faulty.faults > 5
    faulty.fault_of = lambda method, path: None
    assert differences(load_checkpoint(store.path(1)), state) == []


def test_a_body_that_arrives_damaged_is_read_anew(s3_url: str, faulty: Store) -> None:
    store, state = CheckpointStore(s3_url), state_of(1)
    store.save(state)
    faulty.once_each("flip", "GET")
    damaged: list[str] = []
    decide = faulty.fault_of

    def once_each_part(method: str, path: str) -> Fault | None:
        fault = decide(method, path) if path.endswith(("safetensors", "meta.json")) else None
        damaged.extend([path] if fault else [])
        return fault

    faulty.fault_of = once_each_part
    assert differences(load_checkpoint(store.path(1)), state) == []
    assert len(damaged) == 4


def test_a_body_that_arrives_damaged_twice_is_named_and_the_checkpoint_passed_over(
    s3_url: str, faulty: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(s3_url)
    for step in (1, 2):
        store.save(state_of(step))
    faulty.fault_of = lambda method, path: "flip" if "step-00000002/ema" in path and method == "GET" else None
    assert store.newest_whole() == store.path(1)
    assert f"{s3_url}/step-00000002/ema.safetensors: its content does not match checksums.json" in caplog.text
    assert sum("step-00000002/ema" in path and method == "GET" for method, path in faulty.requests) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "checksums.json"])
def test_a_store_that_stays_away_during_a_save_is_an_error_that_names_the_object(
    s3_url: str, faulty: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(s3_url)
    store.save(state_of(1))
    monkeypatch.setattr(storage_module, "RETRY_S", 0.5)
    store = CheckpointStore(s3_url)
    faulty.fault_of = lambda method, path: "refuse" if f"step-00000002/{name}" in path else None
    with pytest.raises(CheckpointError, match=rf"{s3_url}/step-00000002/{name}: cannot be written"):
        store.save(state_of(2))
    assert faulty.faults > 1
    assert store.newest_whole() == store.path(1)


def test_a_store_that_stays_away_is_no_missing_checkpoint(
    s3_url: str, faulty: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    CheckpointStore(s3_url).save(state_of(1))
    monkeypatch.setattr(storage_module, "RETRY_S", 0.2)
    monkeypatch.setitem(storage_module.open_storage.__kwdefaults__, "retry_s", 0.2)
    faulty.fault_of = lambda method, path: "refuse"
    with pytest.raises(CheckpointError, match=rf"{s3_url}: cannot be read"):
        CheckpointStore(s3_url).newest_whole()
    with pytest.raises(CheckpointError, match=rf"{s3_url}/step-00000001/meta\.json: cannot be read"):
        load_meta(f"{s3_url}/step-00000001")


def test_a_url_that_cannot_be_written_to_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"http://host/x: cannot be written to; give a local folder"):
        CheckpointStore("http://host/x")


def test_a_file_url_is_the_folder(tmp_path: Path) -> None:
    CheckpointStore(f"file://{tmp_path}").save(state_of(1))
    assert CheckpointStore(tmp_path).steps() == [1]
