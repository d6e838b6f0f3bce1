"""How often to save: often enough that a failure loses little, rarely enough that saving costs little.

The optimum is Daly's (2006, "A higher order estimate of the optimum checkpoint interval for restart dumps"), of Young's
(1974) first-order one.
"""

import math
import statistics
import time
from collections import deque
from dataclasses import dataclass

_FIRST_STEPS = 10
"""Trained before the first save, to know what a step takes without one."""
_REMEMBERED_STEPS, _REMEMBERED_SAVES = 50, 5


def optimal_interval_s(cost_s: float, mtbf_s: float) -> float:
    """Seconds of training between two saves of `cost_s` each, where a failure comes every `mtbf_s` on average."""
    ratio = cost_s / (2 * mtbf_s)
    if ratio >= 1:
        return mtbf_s
    return math.sqrt(2 * cost_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost_s


def expected_goodput(interval_s: float, cost_s: float, restart_s: float, mtbf_s: float) -> float:
    """The share of wall time that is training which stands, where failures come at random (Daly 2006, equation 20).

    restart_s: from a failure to the first step after it. Failures during saves and restarts are counted in.
    """
    wall_s = mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1((interval_s + cost_s) / mtbf_s)
    return interval_s / wall_s


@dataclass(frozen=True, kw_only=True)
class ChosenInterval:
    """What `OptimalInterval` makes of what it has measured."""

    interval_s: float
    cost_s: float


class OptimalInterval:
    """Measures on rank 0 what saves cost, and says when the next one is due. Times are seconds of `time.monotonic`."""

    def __init__(self, mtbf_s: float) -> None:
        self._mtbf_s = mtbf_s
        self._plain_s: deque[float] = deque(maxlen=_REMEMBERED_STEPS)
        self._costs_s: deque[float] = deque(maxlen=_REMEMBERED_SAVES)
        self._steps = 0
        self._last_save: float | None = None
        self._running_cost_s: float | None = None

    @property
    def chosen(self) -> ChosenInterval | None:
        """None until a save has been measured whole."""
        if not self._costs_s:
            return None
        cost_s = statistics.mean(self._costs_s)
        return ChosenInterval(interval_s=optimal_interval_s(cost_s, self._mtbf_s), cost_s=cost_s)

    def is_due(self, now: float | None = None) -> bool:
        """Whether a save should follow the next step."""
        if self._last_save is None:
            return self._steps + 1 >= _FIRST_STEPS
        chosen = self.chosen
        # A save that is still being written is not measured yet, and another would wait for it.
        if chosen is None or self._running_cost_s is not None:
            return False
        step_s = statistics.median(self._plain_s) if self._plain_s else 0.0
        return (time.monotonic() if now is None else now) + step_s - self._last_save >= chosen.interval_s

    def saved(self, stall_s: float, now: float | None = None) -> None:
        """A save has been handed over, for which training waited so long."""
        self._last_save = time.monotonic() if now is None else now
        self._running_cost_s = stall_s

    def step_done(self, step_s: float, *, writing: bool) -> bool:
        """writing: a save was being written beside the step. True where this completes the measurement of one."""
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
