import io
import logging
from collections.abc import Callable

import pytest

from dist_seg.runtime.progress_bar import ProgressDisplay, duration, progress
from dist_seg.telemetry.console import ConsoleSink
from dist_seg.telemetry.events import CheckpointFailed, EvalDone, RunStarted, StepDone


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def _log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_line_stands_for_every_tenth_of_the_work(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with ProgressDisplay(100, "pack", terminal=False, clock=clock) as display:
        for _ in range(100):
            clock.now_s += 0.5
            display.advance()
    assert len(lines_of(caplog)) == 10
    assert lines_of(caplog)[0] == "pack: 10 of 100 (10%), 45 s left"
    assert lines_of(caplog)[-1] == "pack: 100 of 100 (100%)"


def test_slow_work_has_a_line_every_half_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    display = ProgressDisplay(10_000, "pack", terminal=False, clock=clock)
    for _ in range(30):
        clock.now_s += 10
        display.advance()
    assert len(lines_of(caplog)) == 10


def test_quick_work_has_no_line(caplog: pytest.LogCaptureFixture) -> None:
    with ProgressDisplay(1000, "pack", terminal=False, clock=Clock()) as display:
        for _ in range(1000):
            display.advance()
    assert lines_of(caplog) == []


def test_other_ranks_keep_silent(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(3, "pack", show=False) as display:
        display.advance(3)
    assert lines_of(caplog) == []
    assert capsys.readouterr().err == ""


def test_no_bar_is_drawn_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(3, "pack") as display:
        display.advance(3)
    assert capsys.readouterr().err == ""


def test_the_bar_of_a_terminal_ends_at_its_last_state(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with ProgressDisplay(3, "pack", terminal=True) as display:
        display.advance(3, "done soon")
    assert "pack" in stream.getvalue()
    assert "3/3" in stream.getvalue()
    assert "done soon" in stream.getvalue()


def test_training_shows_loss_and_the_images_a_second_of_all_ranks_however_uneven_their_lanes(
    caplog: pytest.LogCaptureFixture, run_started: Callable[..., RunStarted], step_done: Callable[..., StepDone]
) -> None:
    clock = Clock()
    sink = ConsoleSink(terminal=False, clock=clock)
    sink.emit(run_started(step=50, world_size=3, global_batch=8, micro_batch=2))
    clock.now_s = 60.0
    sink.emit(step_done(60, loss=0.25, samples=4))
    assert lines_of(caplog) == ["train: 60 of 100 (60%), loss 0.2500, 8.0 images/s, 4 min 00 s left"]


def test_an_evaluation_is_told_with_its_score(caplog: pytest.LogCaptureFixture) -> None:
    sink = ConsoleSink(terminal=False)
    sink.emit(EvalDone(step=7, split="val", weights="ema", metrics={"miou": 0.6789}, images=101, eval_s=30.0))
    assert lines_of(caplog) == ["step 7: val mIoU 0.679 (ema weights, 101 images, 30 s)"]


def test_a_failed_checkpoint_is_told_at_once_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    sink = ConsoleSink(terminal=False)
    sink.emit(CheckpointFailed(step=7, reason="No space left on device"))
    assert lines_of(caplog) == ["step 7: no checkpoint: No space left on device"]


@pytest.mark.parametrize(
    ("score_name", "text"), [("mask_ap", "val mask AP 0.312"), ("own_score", "val own_score 0.500")]
)
def test_the_score_that_is_shown_is_the_one_that_tells_the_best_checkpoint(
    score_name: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = {"miou": 0.9, "mask_ap": 0.3117, "own_score": 0.5}
    sink = ConsoleSink(terminal=False)
    sink.emit(
        EvalDone(step=7, split="val", weights="raw", metrics=metrics, images=101, eval_s=30.0, score_name=score_name)
    )
    assert lines_of(caplog) == [f"step 7: {text} (raw weights, 101 images, 30 s)"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7620, "2 h 07 min"), (273600, "3 d 04 h")],
)
def test_a_duration_reads_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
