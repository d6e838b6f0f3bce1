"""Runs that are killed from outside at drawn times, and started again with the same command until they are complete."""

import os
import random
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from dist_seg.runtime.world import World
from tests.distributed.ranks import run_ranks
from tests.distributed.training import SMALL, assert_equal_bits, train_on
from tests.integration.commands import command, environment

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds a command's processes in Linux's /proc"),
]
SIZE, MAX_STEPS = 3, 40
LOADERS = {"torch": ["data.loader=torch", "data.num_threads=1"], "dali": ["data.loader=dali", "data.num_threads=1"]}
_PATIENCE_S = 120


def settings(loader: str) -> list[str]:
    """Of a small training."""
    return [*LOADERS[loader], f"train.max_steps={MAX_STEPS}", "train.num_threads=1"]


def train_undisturbed(world: World, shards: str, folder: str, loaders: list[str]) -> None:
    for loader in loaders:
        train_on(world, shards, f"{folder}/{loader}", settings(loader))


@pytest.fixture(scope="module")
def undisturbed(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs without interruption, by loader."""
    folder = tmp_path_factory.mktemp("undisturbed")
    loaders = [loader for loader in LOADERS if loader == "torch" or _has_dali()]
    function = f"{__name__}:train_undisturbed"
    run_ranks(function, SIZE, folder, shards=str(synthetic_shards), folder=str(folder), loaders=loaders)
    return folder


def _has_dali() -> bool:
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


class Training:
    """`dist-seg train --nproc 3` in processes of its own, with a checkpoint after every step."""

    def __init__(self, shards: Path, run: Path, loader: str) -> None:
        own = [f"data.shards={shards}", f"run.dir={run}", "checkpoint.interval_steps=1"]
        self._run = run
        self._output = run.with_name(f"{run.name}.txt")
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command("train", *SMALL, *settings(loader), *own, "--nproc", SIZE),
                env=environment(),
                stdout=output,
                stderr=output,
            )

    def kill_at(self, reached: Callable[[Path], bool]) -> None:
        """Kills every process of it at a moment at which, with all of them held, `reached(run)` is true."""
        deadline = time.monotonic() + _PATIENCE_S
        held: list[int] = []
        try:
            while not held:
                assert self._process.poll() is None, self._output.read_text()
                assert time.monotonic() < deadline, self._output.read_text()
                if not reached(self._run):
                    time.sleep(0.0005)
                    continue
                held = _signalled(self._process.pid, signal.SIGSTOP)
                if not reached(self._run):
                    _signalled(self._process.pid, signal.SIGCONT)
                    held = []
        finally:
            _signalled(self._process.pid, signal.SIGKILL)
            self._process.wait()
        assert len(held) > SIZE  # The launcher and its ranks, at least.

    def finish(self) -> None:
        try:
            assert self._process.wait(_PATIENCE_S) == 0, self._output.read_text()
        finally:
            _signalled(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _signalled(root: int, number: signal.Signals) -> list[int]:
    """Sends a signal to a process and all that it has started, each before its children; which these are."""
    reached: list[int] = []
    waiting = [root]
    while waiting:
        pid = waiting.pop(0)
        # Looked up before as well: whose parent has been killed has another parent at once.
        started = _children()[pid]
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        reached.append(pid)
        waiting.extend(dict.fromkeys([*started, *_children()[pid]]))
    return reached


def _children() -> dict[int, list[int]]:
    """By process, those that it has started."""
    children: dict[int, list[int]] = defaultdict(list)
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = status.read_text().rpartition(")")[2].split()[1]
        except OSError:  # It has ended meanwhile.
            continue
        children[int(parent)].append(int(status.parent.name))
    return children


def at_step(step: int) -> Callable[[Path], bool]:
    """A step has been logged."""

    def reached(run: Path) -> bool:
        log = run / "events.jsonl"
        steps = re.findall(r'"StepDone".*?"step": (\d+)', log.read_text()) if log.exists() else []
        return bool(steps) and int(steps[-1]) >= step

    return reached


def writing_a_checkpoint(after: int) -> Callable[[Path], bool]:
    """A step has been logged, and a checkpoint is half written."""
    step_reached = at_step(after)

    def reached(run: Path) -> bool:
        return any((run / "checkpoints").glob(".step-*.tmp-*")) and step_reached(run)

    return reached


@pytest.mark.parametrize("loader", LOADERS)
def test_a_run_killed_twice_ends_with_the_bits_of_the_undisturbed_one(
    loader: str, undisturbed: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    if not (undisturbed / loader).exists():
        pytest.skip("needs NVIDIA DALI, which this machine does not have")
    draw = random.Random(f"kills of {loader}")
    run = tmp_path / "run"
    Training(synthetic_shards, run, loader).kill_at(at_step(draw.randrange(1, 10)))
    Training(synthetic_shards, run, loader).kill_at(writing_a_checkpoint(draw.randrange(12, 25)))
    assert list((run / "checkpoints").glob(".step-*.tmp-*")), "the kill came when no checkpoint was being written"
    Training(synthetic_shards, run, loader).finish()
    assert_equal_bits(undisturbed / loader, run, MAX_STEPS)
