"""Chooses how often to save: a failure should lose little work, and saving should cost little time.

Uses the optimum of Daly (2006, "A higher order estimate of the optimum checkpoint interval for restart dumps"), which
refines the first-order optimum of Young (1974).
"""

import math
import statistics
import time
from collections import deque
from dataclasses import dataclass

_FIRST_STEPS = 10
"""Steps before the first save, which measure a step without saving."""
_REMEMBERED_STEPS, _REMEMBERED_SAVES = 50, 5


def optimal_interval_s(cost_s: float, mtbf_s: float) -> float:
    """Seconds of training between two saves that cost `cost_s` each, for a failure every `mtbf_s` on average."""
    ratio = cost_s / (2 * mtbf_s)
    if ratio >= 1:
        return mtbf_s
    return math.sqrt(2 * cost_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost_s


def expected_goodput(interval_s: float, cost_s: float, restart_s: float, mtbf_s: float) -> float:
    """The share of wall time spent on training that is not lost, for random failures (Daly 2006, equation 20).

    restart_s: from a failure to the first step after it. Failures during saves and restarts are included.
    """
    wall_s = mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1((interval_s + cost_s) / mtbf_s)
    return interval_s / wall_s


@dataclass(frozen=True, kw_only=True)
class ChosenInterval:
    """The interval between saves, and the cost of a save that it follows from."""

    interval_s: float
    cost_s: float


class OptimalInterval:
    """Measures the cost of saves on rank 0 and decides when the next one is due. Times are from `time.monotonic`."""

    def __init__(self, mtbf_s: float) -> None:
        self._mtbf_s = mtbf_s
        self._plain_s: deque[float] = deque(maxlen=_REMEMBERED_STEPS)
        self._costs_s: deque[float] = deque(maxlen=_REMEMBERED_SAVES)
        self._steps = 0
        self._last_save: float | None = None
        self._running_cost_s: float | None = None

    @property
    def chosen(self) -> ChosenInterval | None:
        """None until the first save is measured completely."""
        if not self._costs_s:
            return None
        cost_s = statistics.mean(self._costs_s)
        return ChosenInterval(interval_s=optimal_interval_s(cost_s, self._mtbf_s), cost_s=cost_s)

    def is_due(self, now: float | None = None) -> bool:
        """Whether a save should follow the next step."""
        if self._last_save is None:
            return self._steps + 1 >= _FIRST_STEPS
        chosen = self.chosen
        # A save that is still being written has no cost yet, and a second save would wait for it.
        if chosen is None or self._running_cost_s is not None:
            return False
        step_s = statistics.median(self._plain_s) if self._plain_s else 0.0
        return (time.monotonic() if now is None else now) + step_s - self._last_save >= chosen.interval_s

    def saved(self, stall_s: float, now: float | None = None) -> None:
        """Records a save that was handed over. stall_s: seconds that training waited for it."""
        self._last_save = time.monotonic() if now is None else now
        self._running_cost_s = stall_s

    def step_done(self, step_s: float, *, writing: bool) -> bool:
        """Records a step; returns whether that completes the measurement of a save.

        writing: a save was being written during the step.
        """
        self._steps += 1
        if self._running_cost_s is not None and writing and self._plain_s:
            self._running_cost_s += max(0.0, step_s - statistics.median(self._plain_s))
        elif not writing:
            self._plain_s.append(step_s)
        if self._running_cost_s is None or writing:
            return False
        self._costs_s.append(self._running_cost_s)
        self._running_cost_s = None
        return True
