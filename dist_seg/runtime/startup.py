"""Where the time goes between the start of this process and its first step."""

import os
import time
from collections.abc import Mapping
from pathlib import Path


def process_age_s() -> float:
    """Seconds since the operating system started this process; 0 if unknown."""
    try:
        # After the name in brackets, which may contain blanks, the 20th field is the start in ticks since boot.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError):  # Not Linux.
        return 0.0


class StartUp:
    """Seconds of each part of a start, without gaps: a part lasts from the end of the previous one to its own `done`.

    The command line makes it before anything heavy is imported. The first part, `interpreter`, is all the time before
    that. If a part is done several times, its seconds add up.
    """

    def __init__(self) -> None:
        age_s = process_age_s()
        self.process_started = time.time() - age_s
        """When the operating system started this process, in Unix time."""
        self._last = time.monotonic()
        self._seconds = {"interpreter": age_s}

    def done(self, part: str) -> None:
        now = time.monotonic()
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._last
        self._last = now

    @property
    def seconds(self) -> Mapping[str, float]:
        """The parts done so far, in the order of their first `done`."""
        return dict(self._seconds)
