import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.errors import UserError
from dist_seg.telemetry.events import (
    BadSampleFound,
    BadShardFound,
    CheckpointFailed,
    CheckpointIntervalChosen,
    CheckpointSaved,
    DigestTaken,
    EvalDone,
    Event,
    NonFiniteStep,
    RankTimes,
    RunEnded,
    RunStarted,
    StepDone,
)
from dist_seg.telemetry.jsonl import JsonLinesSink, log_path, logged_ranks, read_events, read_log

StepFactory = Callable[..., StepDone]
StartFactory = Callable[..., RunStarted]


def write(run_dir: Path, *events: Event, rank: int = 0, log_interval_steps: int = 1) -> None:
    sink = JsonLinesSink(run_dir, rank=rank, log_interval_steps=log_interval_steps)
    for event in events:
        sink.emit(event)
    sink.close()


def forbid(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def test_every_kind_of_event_is_read_back_as_it_was_written(
    tmp_path: Path, step_done: StepFactory, run_started: StartFactory
) -> None:
    events: list[Event] = [
        run_started(),
        step_done(1),
        BadSampleFound(step=1, key="a/ü", shard="train-000000.tar", reason="half a\nJPEG"),
        BadShardFound(step=1, shard="train-000001.tar", reason="is missing", samples=7),
        NonFiniteStep(step=2, loss=math.inf, grad_norm=-math.inf, keys=["NaN", "b"]),
        EvalDone(step=2, split="val", weights="ema", metrics={"miou": 0.5, "iou/NaN": 0.25}, images=3, eval_s=1.5),
        CheckpointSaved(step=2, path="checkpoints/2", stall_s=0.1, write_s=2.0),
        CheckpointFailed(step=3, reason="No space left on device"),
        CheckpointIntervalChosen(step=3, interval_s=120.5, cost_s=0.25),
        DigestTaken(step=2, batch="1f", weights="2f"),
        RankTimes(step=2, data_wait_s=[0.5, 0.25], forward_s=[1.0, 2.0], backward_s=[0.0, 0.0]),
        RunEnded(step=2, outcome="complete", reason="", wall_s=9.0, seconds={"forward": 9.0}),
    ]
    assert {type(event) for event in events} == set(get_args(Event))
    write(tmp_path, *events)
    assert [record.event for record in read_log(tmp_path)] == events


@given(number=st.floats())
def test_any_number_is_strict_json_and_read_back(tmp_path_factory: pytest.TempPathFactory, number: float) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    write(run_dir, EvalDone(step=1, split="val", weights="raw", metrics={"miou": number}, images=1, eval_s=0.0))
    json.loads(log_path(run_dir, 0).read_text(), parse_constant=forbid)
    event = read_log(run_dir)[0].event
    assert isinstance(event, EvalDone)
    np.testing.assert_equal(event.metrics["miou"], number)


def test_numpy_scalars_are_written_as_plain_numbers(tmp_path: Path, step_done: StepFactory) -> None:
    write(tmp_path, step_done(1, loss=np.float32(0.5), grad_norm=np.float32("nan"), samples=np.int64(3)))
    event = read_log(tmp_path)[0].event
    assert isinstance(event, StepDone)
    assert (event.loss, event.samples, math.isnan(event.grad_norm)) == (0.5, 3, True)


def test_an_event_is_in_the_file_before_the_sink_is_closed(tmp_path: Path, step_done: StepFactory) -> None:
    sink = JsonLinesSink(tmp_path, rank=0)
    sink.emit(step_done(1))
    assert len(read_log(tmp_path)) == 1
    sink.close()


def test_a_restart_after_a_torn_last_line_loses_only_that_line(
    tmp_path: Path, step_done: StepFactory, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, step_done(1), step_done(2))
    path = log_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-20])
    write(tmp_path, step_done(3))
    with caplog.at_level(logging.WARNING):
        steps = [record.event.step for record in read_log(tmp_path)]
    assert steps == [1, 3]
    assert "ignored lines that are cut short or of an unknown kind: 1" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        "\x00\xff",
        "[" * 100_000,
        '{"event": "Unheard", "time_s": 1, "rank": 0}',
        '{"event": 3, "time_s": 1, "rank": 0}',
        '{"event": "DigestTaken", "time_s": 1, "rank": 0, "step": 1, "batch": "a"}',
        '{"event": "DigestTaken", "time_s": 1, "rank": 0, "step": 1.5, "batch": "a", "weights": "b"}',
        '{"event": "DigestTaken", "time_s": 1, "rank": 0, "step": 1, "batch": null, "weights": "b"}',
        '{"event": "DigestTaken", "time_s": 1, "step": 1, "batch": "a", "weights": "b"}',
    ],
    ids=lambda line: line[:60],
)
def test_an_unreadable_line_is_left_out(tmp_path: Path, step_done: StepFactory, line: str) -> None:
    write(tmp_path, step_done(1))
    with log_path(tmp_path, 0).open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    assert len(read_log(tmp_path)) == 1


def test_a_log_from_before_a_field_came_is_read_with_the_default(tmp_path: Path) -> None:
    evaluation = EvalDone(step=1, split="val", weights="raw", metrics={"miou": 0.5}, images=1, eval_s=0.0)
    write(tmp_path, evaluation)
    path = log_path(tmp_path, 0)
    record = json.loads(path.read_text())
    del record["score_name"]
    path.write_text(json.dumps(record) + "\n")
    assert read_log(tmp_path)[0].event == evaluation


def test_a_field_of_a_later_version_is_ignored(tmp_path: Path, step_done: StepFactory) -> None:
    write(tmp_path, step_done(1))
    path = log_path(tmp_path, 0)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new_field": 1}) + "\n")
    assert read_log(tmp_path)[0].event == step_done(1)


def test_steps_done_again_after_a_resume_stand_once_in_their_later_version(
    tmp_path: Path, step_done: StepFactory, run_started: StartFactory
) -> None:
    write(tmp_path, run_started(0), *(step_done(step, loss=1.0) for step in (1, 2, 3, 4)))
    write(tmp_path, run_started(2), *(step_done(step, loss=2.0) for step in (3, 4, 5)))
    steps = [record.event for record in read_events(tmp_path) if isinstance(record.event, StepDone)]
    assert [(event.step, event.loss) for event in steps] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_a_step_that_was_not_yet_done_again_is_gone(
    tmp_path: Path, step_done: StepFactory, run_started: StartFactory
) -> None:
    write(tmp_path, run_started(0), step_done(1), step_done(2), run_started(1))
    assert [record.event.step for record in read_events(tmp_path) if isinstance(record.event, StepDone)] == [1]


def test_a_bad_sample_outlives_the_restart(tmp_path: Path, run_started: StartFactory) -> None:
    bad = BadSampleFound(step=5, key="k", shard="s", reason="r")
    write(tmp_path, run_started(0), bad, run_started(2))
    assert bad in [record.event for record in read_events(tmp_path)]


def test_other_ranks_write_their_own_log(tmp_path: Path, step_done: StepFactory) -> None:
    for rank in (0, 3, 12):
        write(tmp_path, step_done(1), rank=rank)
    assert logged_ranks(tmp_path) == [0, 3, 12]
    assert [record.rank for record in read_log(tmp_path, 12)] == [12]


def test_only_every_nth_step_is_logged_but_every_skipped_one(tmp_path: Path, step_done: StepFactory) -> None:
    steps = [step_done(step, skipped=step == 3) for step in range(1, 9)]
    write(tmp_path, *steps, log_interval_steps=4)
    assert [record.event.step for record in read_log(tmp_path)] == [3, 4, 8]


def test_a_run_without_a_log_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []
    assert logged_ranks(tmp_path) == []


def test_a_log_that_cannot_be_opened_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file/run/events\.jsonl: cannot be written: a file lies where a folder"):
        JsonLinesSink(tmp_path / "file" / "run", rank=0)
