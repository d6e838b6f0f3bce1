from collections.abc import Callable

import pytest

from dist_seg.telemetry.accounting import TimeAccount, time_account
from dist_seg.telemetry.events import CheckpointSaved, EvalDone, Event, RunEnded, RunStarted, StepDone
from dist_seg.telemetry.jsonl import Record

StepFactory = Callable[..., StepDone]
StartFactory = Callable[..., RunStarted]
EndFactory = Callable[..., RunEnded]


def account(*timed: tuple[float, Event]) -> TimeAccount:
    return time_account([Record(time_s=time_s, rank=0, event=event) for time_s, event in timed])


def test_a_process_that_ended_is_taken_at_its_word(run_started: StartFactory, run_ended: EndFactory) -> None:
    found = account((0, run_started()), (100, run_ended(9, forward=30.0, backward=40.0, optimizer=5.0, other=25.0)))
    assert found.wall_s == 100.0
    assert found.goodput == pytest.approx(0.75)
    assert (found.starts, found.outcome) == (1, "complete")


def test_a_killed_process_is_counted_by_its_events(run_started: StartFactory, step_done: StepFactory) -> None:
    found = account(
        (10, run_started()),  # 5 s of start-up before it
        (11, step_done(1)),
        (14, EvalDone(step=1, split="val", weights="ema", metrics={}, images=1, eval_s=2.0)),
        (15, CheckpointSaved(step=1, path="", stall_s=0.5, write_s=9.0)),
    )
    assert found.seconds == pytest.approx(
        {
            "startup": 5.0,
            "forward": 0.3,
            "backward": 0.4,
            "optimizer": 0.1,
            "data_wait": 0.1,
            "evaluation": 2.0,
            "checkpoint": 0.5,
            "other": 1.6,
            "lost": 0.0,
            "down": 0.0,
        }
    )
    assert found.wall_s == pytest.approx(10.0)
    assert found.outcome == "unknown"


def test_steps_that_a_restart_did_again_are_lost_time(
    run_started: StartFactory, step_done: StepFactory, run_ended: EndFactory
) -> None:
    found = account(
        (0, run_started(0)),
        *((step, step_done(step)) for step in (1, 2, 3)),
        (100, run_started(1)),
        (103, run_ended(3, startup=5.0, data_wait=0.2, forward=0.6, backward=0.8, optimizer=0.2, other=0.2)),
    )
    assert found.seconds["lost"] == pytest.approx(2.0)  # steps 2 and 3 of the first process, 1 s each
    assert found.seconds["forward"] == pytest.approx(0.3 + 0.6)
    assert found.seconds["down"] == pytest.approx(100 - 5 - 3)  # until the start-up of the second
    assert found.wall_s == pytest.approx(8.0 + 92.0 + 7.0)
    assert found.starts == 2


def test_a_pause_after_a_process_that_ended_by_itself_is_no_time_of_the_run(
    run_started: StartFactory, run_ended: EndFactory
) -> None:
    found = account(
        (0, run_started(0)),
        (9, run_ended(1, "preempted", other=9.0)),
        (1000, run_started(1)),
        (1009, run_ended(2, other=9.0)),
    )
    assert found.seconds["down"] == 0.0
    assert found.wall_s == 18.0


def test_an_empty_log_accounts_for_nothing() -> None:
    found = account()
    assert (found.wall_s, found.goodput, found.starts) == (0.0, 0.0, 0)
