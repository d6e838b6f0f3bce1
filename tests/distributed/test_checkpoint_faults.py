"""Trainings whose checkpoints cannot be written for a while, or whose process dies while one is written."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.distributed.world import World
from dist_seg.engine.stop import StopSignal
from dist_seg.errors import CheckpointError
from dist_seg.telemetry.events import CheckpointFailed, CheckpointSaved, Event, StepDone
from dist_seg.telemetry.jsonl import read_events
from tests.distributed.training import assert_equal_bits, train_on
from tests.failpoints import Failpoints, killed
from tests.integration.commands import ROOT, environment

MAX_STEPS = 6
EVERY_STEP = [f"train.max_steps={MAX_STEPS}", "checkpoint.interval_steps=1", "checkpoint.keep_last=20"]
_KIB = 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system (Linux, root)")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb") as file:
        try:
            while True:
                os.write(file.fileno(), bytes(4 * _KIB))
        except OSError:
            pass


def free(disk: Path) -> None:
    (disk / "ballast").unlink()


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def make_writable(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


FAULTS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], str]] = {
    "full": (fill, free, "No space left on device"),
    "read-only": (make_read_only, make_writable, "Read-only file system"),
}
"""What is done to the disk, how it is undone, and what the error says."""


def train_with_fault(
    shards: Path, run: Path, disk: Path, fault: str, until: int, settings: tuple[str, ...] = ()
) -> list[Event]:
    """A training that checkpoints every step onto the disk, which has its fault from step 3 to `until`; its events."""
    begin, end, _ = FAULTS[fault]
    events: list[Event] = []

    def on_event(event: Event, stop: StopSignal) -> None:
        events.append(event)
        if isinstance(event, CheckpointSaved) and event.step == 2:
            begin(disk)
        if isinstance(event, StepDone) and event.step == until:
            end(disk)

    try:
        train_on(World(), str(shards), str(run), [*EVERY_STEP, f"checkpoint.dir={disk / 'c'}", *settings], on_event)
    except CheckpointError as error:
        events.append(CheckpointFailed(step=-1, reason=f"the run ended: {error}"))
    return events


def saved(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, CheckpointSaved)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_may_goes_on_without_checkpoints_and_saves_again_once_it_can(
    fault: str, synthetic_shards: Path, small_disk: Path, tmp_path: Path
) -> None:
    events = train_with_fault(
        synthetic_shards, tmp_path / "run", small_disk, fault, 5, ("checkpoint.on_error=continue",)
    )
    failures = [event for event in events if isinstance(event, CheckpointFailed)]
    assert failures and {event.step for event in failures} <= {3, 4, 5}
    assert all(FAULTS[fault][2] in event.reason for event in failures)
    assert sorted({*saved(events), *(event.step for event in failures)}) == list(range(1, MAX_STEPS + 1))
    assert CheckpointStore(small_disk / "c").newest_whole() == f"{small_disk}/c/step-{MAX_STEPS:08d}"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_stops_with_the_cause_and_the_checkpoints_before_intact(
    fault: str, synthetic_shards: Path, small_disk: Path, tmp_path: Path
) -> None:
    events = train_with_fault(synthetic_shards, tmp_path / "run", small_disk, fault, MAX_STEPS + 1)
    last = events[-1]
    assert isinstance(last, CheckpointFailed)
    assert "the run ended: " in last.reason and f"{small_disk}/c/step-00000003" in last.reason
    assert FAULTS[fault][2] in last.reason
    assert max(event.step for event in events if isinstance(event, StepDone)) < MAX_STEPS
    assert CheckpointStore(small_disk / "c").newest_whole() == f"{small_disk}/c/step-00000002"


def test_a_failure_stands_in_the_log_of_the_run(synthetic_shards: Path, small_disk: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_with_fault(synthetic_shards, run, small_disk, "full", 5, ("checkpoint.on_error=continue",))
    logged = [record.event for record in read_events(run) if isinstance(record.event, CheckpointFailed)]
    assert logged and "No space left on device" in logged[0].reason


def test_a_run_whose_last_save_fails_ends_with_its_error_though_it_may_go_on(
    synthetic_shards: Path, small_disk: Path, tmp_path: Path
) -> None:
    events = train_with_fault(
        synthetic_shards, tmp_path / "run", small_disk, "full", MAX_STEPS + 1, ("checkpoint.on_error=continue",)
    )
    assert max(event.step for event in events if isinstance(event, StepDone)) == MAX_STEPS
    last = events[-1]
    assert isinstance(last, CheckpointFailed) and "the run ended: " in last.reason
    assert f"step-{MAX_STEPS:08d}: the checkpoint could not be written: No space left" in last.reason


NUM_POINTS = 4


def die_and_go_on(folder: Path, shards: str) -> None:
    """A run that is left alone, and runs that die while they write a checkpoint and are started again.

    Each in a process of its own, forked from this one, which has everything imported and nothing done.
    """

    def train(run: Path, die_at: int) -> None:
        points = Failpoints(run / "checkpoints", die_at, power_cut=die_at % 2 == 1)
        points.install()
        train_on(World(), shards, str(run), EVERY_STEP)
        (folder / "count.json").write_text(json.dumps(points.count))

    assert not killed(functools.partial(train, folder / "undisturbed", -1))
    count = json.loads((folder / "count.json").read_text())
    for number in range(NUM_POINTS):
        run = folder / f"{number}"
        # Spread over the run, and over what a save consists of.
        assert killed(functools.partial(train, run, 2 + round((count - 20) * (number + 0.5) / NUM_POINTS) + number))
        assert not killed(functools.partial(train, run, -1))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks and kills")
def test_a_run_that_died_in_a_save_ends_with_the_bits_of_the_undisturbed_one(
    synthetic_shards: Path, tmp_path: Path
) -> None:
    program = f"from {__name__} import *; die_and_go_on(Path({str(tmp_path)!r}), {str(synthetic_shards)!r})"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=environment(), timeout=250)
    for number in range(NUM_POINTS):
        assert_equal_bits(tmp_path / "undisturbed", tmp_path / f"{number}", MAX_STEPS)
