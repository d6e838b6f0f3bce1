"""Where this process is in its training, for the watchdogs of all ranks to read (see `distributed/watchdog.py`)."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


def described(phase: str, step: int) -> str:
    """A phase after so many steps, for messages."""
    if phase == "startup":
        return "the start-up"
    return f"{phase} after step {step}" if phase in ("evaluation", "checkpoint") else f"{phase} of step {step + 1}"


class Position:
    """Step and phase of the main thread, and whether it waits for other ranks.

    Written by the main thread alone, read by the watchdog's. Every rank takes the same path of collectives, so the one
    that has entered fewer than the others is the one they wait for.
    """

    def __init__(self) -> None:
        self.step, self.phase = 0, "startup"
        self.collectives = 0
        """How many this rank has entered."""
        self.ending = False
        """A collective has failed, or the run has: the process is on its way to its own end."""
        self._waiting_since: float | None = None

    def at(self, phase: str, step: int | None = None) -> None:
        """The phase that begins now, by the names that the account of time has; step: steps done before it."""
        self.phase = phase
        if step is not None:
            self.step = step

    @contextmanager
    def collective(self) -> Iterator[None]:
        """What is done inside waits for the other ranks. One inside another counts as one."""
        if self._waiting_since is not None or threading.current_thread() is not threading.main_thread():
            yield
            return
        self.collectives += 1
        self.ending = False
        self._waiting_since = time.monotonic()
        try:
            yield
        except BaseException:
            self.ending = True
            raise
        finally:
            self._waiting_since = None

    @property
    def waited_s(self) -> float:
        """How long this rank has been waiting for others; 0 where it does not."""
        since = self._waiting_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def words(self) -> str:
        return described(self.phase, self.step)


# One for the process, as torch's process group is: collectives are called from everywhere without a handle.
HERE = Position()
