import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_seg.config.schema import TelemetryConfig
from dist_seg.errors import ConfigError
from dist_seg.telemetry.build import FanOut, build_sinks
from dist_seg.telemetry.console import ConsoleSink
from dist_seg.telemetry.events import Event, Sink, StepDone
from dist_seg.telemetry.jsonl import JsonLinesSink, read_log

StepFactory = Callable[..., StepDone]


class Recorder:
    """Keeps what it receives; raises from the given step on."""

    def __init__(self, fails_from: int = 1000) -> None:
        self.fails_from = fails_from
        self.steps: list[int] = []
        self.closed = 0

    def emit(self, event: Event) -> None:
        if event.step >= self.fails_from:
            raise OSError("no space left on device")
        self.steps.append(event.step)

    def close(self) -> None:
        self.closed += 1
        if self.fails_from < 1000:
            raise OSError("still no space left")


RECEIVED: list[Path] = []


def recorder_factory(run_dir: Path) -> Sink:
    RECEIVED.append(run_dir)
    return Recorder()


def broken_factory(run_dir: Path) -> Sink:
    raise RuntimeError("no account")


def no_sink_factory(run_dir: Path) -> str:
    return "a sink"


NOT_A_FUNCTION = 3


def test_a_failing_sink_is_named_once_and_dropped_while_the_others_go_on(
    step_done: StepFactory, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Recorder(fails_from=2), Recorder()
    fan_out = FanOut([bad, good])
    with caplog.at_level(logging.ERROR):
        for step in (1, 2, 3):
            fan_out.emit(step_done(step))
    assert good.steps == [1, 2, 3]
    assert (bad.steps, bad.closed) == ([1], 1)
    assert caplog.text.count("Recorder failed and gets no more events") == 1


def test_closing_closes_every_sink_whatever_one_of_them_does() -> None:
    bad, good = Recorder(fails_from=0), Recorder()
    FanOut([bad, good]).close()
    assert (bad.closed, good.closed) == (1, 1)


def test_rank_0_shows_progress_and_other_ranks_only_log(tmp_path: Path) -> None:
    cfg = TelemetryConfig(prometheus_port=-1)
    kinds = []
    for rank in (0, 1):
        telemetry = build_sinks(cfg, tmp_path, rank=rank, local_rank=rank)
        kinds.append([type(sink) for sink in telemetry.sink.sinks])
        telemetry.sink.close()
        assert telemetry.prometheus_port is None
    assert kinds == [[JsonLinesSink, ConsoleSink], [JsonLinesSink]]


def test_a_free_port_is_chosen_and_told(tmp_path: Path) -> None:
    telemetry = build_sinks(TelemetryConfig(), tmp_path, rank=0, local_rank=0)
    telemetry.sink.close()
    assert telemetry.prometheus_port is not None
    assert telemetry.prometheus_port > 1023


def test_a_sink_of_the_user_is_built_with_the_run_folder_on_rank_0(tmp_path: Path) -> None:
    cfg = TelemetryConfig(prometheus_port=-1, sinks=(f"{__name__}:recorder_factory",))
    RECEIVED.clear()
    for rank in (0, 1):
        build_sinks(cfg, tmp_path, rank=rank, local_rank=rank).sink.close()
    assert [tmp_path] == RECEIVED


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_colon", "not of the form"),
        ("no.such.package:build", "cannot import no.such.package"),
        (f"{__name__}:absent", "has no function absent"),
        (f"{__name__}:NOT_A_FUNCTION", "is a int, not a function"),
        (f"{__name__}:broken_factory", "RuntimeError: no account"),
        (f"{__name__}:no_sink_factory", "no method emit"),
    ],
)
def test_a_path_that_gives_no_sink_is_an_error_naming_it(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_sinks(TelemetryConfig(prometheus_port=-1, sinks=(path,)), tmp_path, rank=0, local_rank=0)


def test_what_was_emitted_reaches_the_log(tmp_path: Path, step_done: StepFactory) -> None:
    telemetry = build_sinks(TelemetryConfig(prometheus_port=-1), tmp_path, rank=1, local_rank=1)
    telemetry.sink.emit(step_done(1))
    telemetry.sink.close()
    assert [record.event for record in read_log(tmp_path, 1)] == [step_done(1)]
