"""A training by the real command, whose processes are killed from outside at chosen moments."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.distributed.training import SMALL
from tests.integration.commands import command, environment

_PATIENCE_S = 180


class LaunchedTraining:
    """A training on the small network in processes of its own, a launcher and its ranks; end it with the context.

    launcher: the command that starts `train` and its arguments on several ranks; None: `dist-seg train --nproc`.
    """

    def __init__(
        self,
        shards: Path,
        run: Path,
        settings: Sequence[str] = (),
        *,
        nproc: int = 3,
        max_restarts: int = 0,
        launcher: Sequence[str] | None = None,
    ) -> None:
        self._run, self._nproc = run, nproc
        self._output = run.with_name(f"{run.name}.txt")
        arguments = ["train", *SMALL, f"data.shards={shards}", f"run.dir={run}", "train.num_threads=1", *settings]
        restarts = ["--max-restarts", str(max_restarts)] if max_restarts else []
        started = [*launcher, *arguments] if launcher else command(*arguments, "--nproc", nproc, *restarts)
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(started, cwd=run.parent, env=environment(), stdout=output, stderr=output)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Launcher and ranks, as when their machine goes."""
        if self._process.poll() is None:
            signalled(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def output(self) -> str:
        return self._output.read_text()

    def kill_at(self, reached: Callable[[Path], bool], *, with_ranks: bool = True) -> None:
        """Kills every process of it at a moment at which, with all of them held, `reached(run)` is true.

        with_ranks: that is a moment at which its ranks run; else it may be one at which they have not been started.
        """
        deadline = time.monotonic() + _PATIENCE_S
        held: list[int] = []
        try:
            while not held:
                assert self._process.poll() is None, self.output
                assert time.monotonic() < deadline, self.output
                if not reached(self._run):
                    time.sleep(0.0005)
                    continue
                held = signalled(self._process.pid, signal.SIGSTOP)
                if not reached(self._run):
                    signalled(self._process.pid, signal.SIGCONT)
                    held = []
        finally:
            signalled(self._process.pid, signal.SIGKILL)
            self._process.wait()
        assert len(held) > self._nproc * with_ranks  # The launcher and its ranks, at least.

    def kill_rank_at(self, rank: int, reached: Callable[[Path], bool]) -> None:
        """Kills one rank of it as soon as `reached(run)` is true; its launcher and the other ranks are left alone."""
        self.wait_until(reached)
        os.kill(self._pid_of(rank), signal.SIGKILL)

    def send_at(self, number: signal.Signals, reached: Callable[[Path], bool]) -> None:
        """Sends a signal to the launcher alone."""
        self.wait_until(reached)
        self._process.send_signal(number)

    def ended(self) -> int:
        """The launcher's exit code, once it has ended."""
        try:
            return self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(self.output) from error

    def wait_until(self, reached: Callable[[Path], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not reached(self._run):
            assert self._process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.005)

    def _pid_of(self, rank: int) -> int:
        for pid in descendants(self._process.pid):
            with suppress(OSError):  # It has ended meanwhile.
                if f"RANK={rank}" in Path(f"/proc/{pid}/environ").read_text().split("\0"):
                    return pid
        raise AssertionError(f"rank {rank} does not run: {self.output}")


def torchrun(nproc: int, *options: str) -> list[str]:
    """A launcher for `LaunchedTraining`."""
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(nproc)]
    return [*run, *(options or ["--standalone"]), "-m", "dist_seg"]


def descendants(root: int) -> list[int]:
    """What a process has started, and so on."""
    by_parent = _children()
    found, waiting = [], [root]
    while waiting:
        started = by_parent[waiting.pop()]
        found.extend(started)
        waiting.extend(started)
    return found


def signalled(root: int, number: signal.Signals) -> list[int]:
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
