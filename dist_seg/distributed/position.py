"""The position of this process in its training. The watchdogs of all ranks read it (see `distributed/watchdog.py`)."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


def describe(phase: str, step: int) -> str:
    """A phase and its step, for messages. step: number of steps done before it."""
    if phase == "startup":
        return "the start-up"
    return f"{phase} after step {step}" if phase in ("evaluation", "checkpoint") else f"{phase} of step {step + 1}"


class Position:
    """Step and phase of the main thread, and whether it waits for other ranks.

    Only the main thread writes it; the watchdog's thread reads it. Every rank takes the same path of collectives, so
    the others wait for the rank that has entered the fewest.
    """

    def __init__(self) -> None:
        self.step, self.phase = 0, "startup"
        self.collectives = 0
        """Number of collectives that this rank has entered."""
        self.ending = False
        """A collective or the run has failed, and the process is about to end by itself."""
        self._waiting_since: float | None = None

    def at(self, phase: str, step: int | None = None) -> None:
        """Sets the phase that begins now, named as in the time account. step: number of steps done before it."""
        self.phase = phase
        if step is not None:
            self.step = step

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Marks that the body waits for the other ranks. Nested collectives count as one."""
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
        """How long this rank has been waiting for others; 0 if it does not wait."""
        since = self._waiting_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def description(self) -> str:
        return describe(self.phase, self.step)


# One per process, like torch's process group: collectives are called from everywhere without a handle, and the
# watchdog needs the position of exactly this process.
HERE = Position()
