"""The metrics as a Prometheus server would meet them: over HTTP."""

import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dist_seg.errors import ConfigError
from dist_seg.telemetry.events import (
    BadSampleFound,
    CheckpointFailed,
    CheckpointIntervalChosen,
    CheckpointSaved,
    EvalDone,
    NonFiniteStep,
    RankTimes,
    RunEnded,
    RunStarted,
    StepDone,
)
from dist_seg.telemetry.prometheus import PrometheusSink

LOOPBACK = "127.0.0.1"


@contextmanager
def sink_of_a_run() -> Iterator[PrometheusSink]:
    """A sink that has seen one event of every kind that it shows: three steps, the last one skipped."""
    sink = PrometheusSink(address=LOOPBACK, requested_port=0, rank=1)
    sink.emit(
        RunStarted(
            step=10,
            max_steps=100,
            steps_per_epoch=5,
            world_size=4,
            global_batch=16,
            micro_batch=4,
            device="cpu",
            class_names=("sky", 'ro"ad'),
            manifest_hash="abc",
            versions={"torch": "2.14.1", "dist-seg": "0.1.0"},
            startup_s=2.0,
        )
    )
    for step in (11, 12, 13):
        sink.emit(
            StepDone(
                step=step,
                epoch=2,
                loss=float("nan") if step == 13 else 0.5,
                parts={"dice": 0.25},
                lr=0.01,
                grad_norm=3.0,
                skipped=step == 13,
                samples=4,
                step_s=1.0,
                data_wait_s=0.125,
                forward_s=0.25,
                backward_s=0.25,
                optimizer_s=0.125,
            )
        )
    sink.emit(NonFiniteStep(step=13, loss=float("nan"), grad_norm=3.0, keys=("a",)))
    sink.emit(BadSampleFound(step=13, key="b", shard="train-000000.tar", reason="half a JPEG"))
    metrics = {"miou": 0.75, "iou/sky": 1.0, 'iou/ro"ad': 0.5}
    sink.emit(EvalDone(step=13, split="val", weights="ema", metrics=metrics, images=101, eval_s=4.0))
    sink.emit(CheckpointSaved(step=13, path="13", stall_s=0.5, write_s=3.0))
    sink.emit(CheckpointFailed(step=14, reason="No space left on device"))
    sink.emit(CheckpointIntervalChosen(step=14, interval_s=120.5, cost_s=0.25))
    sink.emit(RankTimes(step=13, data_wait_s=(0.5, 0.5), forward_s=(0.5, 2.0), backward_s=(1.0, 1.5)))
    sink.emit(RunEnded(step=13, outcome="preempted", reason="SIGTERM", wall_s=9.0, seconds={}))
    try:
        yield sink
    finally:
        sink.close()


def scrape(port: int) -> str:
    # The environment's proxy has no business with the loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{LOOPBACK}:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def page() -> str:
    with sink_of_a_run() as sink:
        return scrape(sink.port)


@pytest.fixture(scope="module")
def samples(page: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name and label values, the latter in the order of the label names."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("dist_seg_samples_total", (), 12.0),
        ("dist_seg_steps_total", (), 3.0),
        ("dist_seg_skipped_steps_total", (), 1.0),
        ("dist_seg_bad_samples_total", (), 1.0),
        ("dist_seg_step", (), 13.0),
        ("dist_seg_max_steps", (), 100.0),
        ("dist_seg_world_size", (), 4.0),
        ("dist_seg_learning_rate", (), 0.01),
        ("dist_seg_gradient_norm", (), 3.0),
        ("dist_seg_loss_part", ("dice",), 0.25),
        ("dist_seg_step_seconds_sum", (), 3.0),
        ("dist_seg_step_seconds_count", (), 3.0),
        ("dist_seg_step_phase_seconds_total", ("data_wait",), 0.375),
        ("dist_seg_step_phase_seconds_total", ("compute",), 1.875),
        ("dist_seg_step_phase_seconds_total", ("other",), 0.75),
        ("dist_seg_compute_seconds_total", ("backward",), 0.75),
        ("dist_seg_rank_seconds", ("forward", "1"), 2.0),
        ("dist_seg_straggler_ratio", (), 2.0),
        ("dist_seg_checkpoint_stall_seconds_sum", ("ddp",), 0.5),
        ("dist_seg_checkpoint_write_seconds_sum", ("ddp",), 3.0),
        ("dist_seg_checkpoint_step", (), 13.0),
        ("dist_seg_checkpoint_failures_total", (), 1.0),
        ("dist_seg_checkpoint_interval_seconds", (), 120.5),
        ("dist_seg_checkpoint_cost_seconds", (), 0.25),
        ("dist_seg_evaluation_score", ("miou", "val", "ema"), 0.75),
        ("dist_seg_evaluation_class_score", ('ro"ad', "iou", "val", "ema"), 0.5),
        ("dist_seg_evaluation_images", ("val",), 101.0),
        ("dist_seg_run_info", ("cpu", "abc", "1", "0.1.0", "2.14.1"), 1.0),
        ("dist_seg_run_ended", ("preempted",), 1.0),
    ],
)
def test_a_scrape_shows_what_was_emitted(
    samples: dict[tuple[str, tuple[str, ...]], float], name: str, labels: tuple[str, ...], value: float
) -> None:
    assert samples[name, labels] == pytest.approx(value)


def test_a_loss_that_is_not_finite_is_shown_as_such(samples: dict[tuple[str, tuple[str, ...]], float]) -> None:
    assert samples["dist_seg_loss", ()] != samples["dist_seg_loss", ()]


def test_every_metric_carries_the_projects_prefix(page: str) -> None:
    assert all(family.name.startswith("dist_seg_") for family in text_string_to_metric_families(page))


def test_promtool_has_nothing_to_find_fault_with(page: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    check = subprocess.run([promtool, "check", "metrics"], input=page, text=True, capture_output=True, timeout=60)
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


def test_two_sinks_in_one_process_do_not_share_numbers() -> None:
    fresh = PrometheusSink(address=LOOPBACK, requested_port=0, rank=0)
    with sink_of_a_run() as used:
        assert "dist_seg_steps_total 0.0" in scrape(fresh.port)
        assert "dist_seg_steps_total 3.0" in scrape(used.port)
    fresh.close()


def test_a_taken_port_is_a_warning_and_the_next_one_is_used(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        sink = PrometheusSink(address=LOOPBACK, requested_port=port, rank=0)
        assert sink.port != port
        assert f"port {port} is taken" in caplog.text
        assert "dist_seg_steps_total" in scrape(sink.port)
        sink.close()


def test_two_ranks_that_ask_for_one_port_get_two() -> None:
    first = PrometheusSink(address=LOOPBACK, requested_port=0, rank=0)
    second = PrometheusSink(address=LOOPBACK, requested_port=first.port, rank=1)
    assert second.port != first.port
    for sink in (first, second):
        sink.close()


def test_a_closed_sink_answers_no_more() -> None:
    sink = PrometheusSink(address=LOOPBACK, requested_port=0, rank=0)
    sink.close()
    with pytest.raises(urllib.error.URLError):
        scrape(sink.port)


@pytest.mark.parametrize(
    ("address", "port", "message"),
    [("203.0.113.7", 0, "prometheus_address"), ("no such host", 0, "prometheus_address"), (LOOPBACK, 70000, "70000")],
)
def test_an_address_that_cannot_be_used_is_an_error_naming_it(address: str, port: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrometheusSink(address=address, requested_port=port, rank=0)
