"""Finds the rank that others wait for, from each rank's own time without its waits for other ranks."""

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch

from dist_seg.distributed.collectives import sum_over_ranks
from dist_seg.distributed.world import World
from dist_seg.telemetry.events import Event, RankTimes

_log = logging.getLogger(__name__)

PARTS = ("data_wait", "forward", "backward")
_SLOW_RATIO = 1.5
# Smaller differences are mostly noise of the machine.
_SLOW_S = 0.05


class RankClock:
    """Adds up a rank's own times, and gathers them from all ranks as RankTimes every `interval_steps`.

    Times are per micro-batch, as ranks may own different numbers of lanes. The last backward pass of a step waits for
    the sum of the gradients, so it depends on other ranks and is left out. That leaves no backward pass of ranks with a
    single lane, and none if ranks meet in every backward pass (`meets_in_backward`).
    """

    def __init__(
        self,
        *,
        world: World,
        lanes: int,
        meets_in_backward: bool,
        interval_steps: int,
        emit: Callable[[Event], None],
    ) -> None:
        self._world, self._interval_steps, self._emit = world, interval_steps, emit
        self._with_backward = lanes // world.size > 1 and not meets_in_backward
        self._sums, self._steps = torch.zeros(len(PARTS), dtype=torch.float64), 0
        self._warning = StragglerWarning()

    def add(self, step: int, *, data_wait_s: float, forward_s: Sequence[float], backward_s: Sequence[float]) -> None:
        """Adds the times of a step. forward_s, backward_s: of each micro-batch. A collective every `interval_steps`."""
        if not self._interval_steps:
            return
        early = backward_s[:-1] if self._with_backward else [0.0]
        own = [data_wait_s / len(forward_s), statistics.fmean(forward_s), statistics.fmean(early)]
        self._sums += torch.tensor(own, dtype=torch.float64)
        self._steps += 1
        if step % self._interval_steps == 0:
            self._tell(step)

    def _tell(self, step: int) -> None:
        by_rank = torch.zeros(self._world.size, len(PARTS), dtype=torch.float64)
        by_rank[self._world.rank] = self._sums / self._steps
        data_wait_s, forward_s, backward_s = sum_over_ranks(by_rank).T.tolist()
        self._sums.zero_()
        self._steps = 0
        if self._world.is_main:
            times = RankTimes(step=step, data_wait_s=data_wait_s, forward_s=forward_s, backward_s=backward_s)
            self._emit(times)
            text = self._warning.of(times)
            if text is not None:
                _log.warning("step %d: %s", step, text)


class StragglerWarning:
    """Names a rank that is slower than the others: at once, then after 2, 4, 8, ... intervals."""

    def __init__(self) -> None:
        self._rank, self._seen, self._next = -1, 0, 1

    def of(self, times: RankTimes) -> str | None:
        total_s = times.own_s
        slowest = max(range(len(total_s)), key=total_s.__getitem__)
        middle_s = statistics.median_low(total_s)
        if times.straggler_ratio < _SLOW_RATIO or total_s[slowest] - middle_s < _SLOW_S:
            self._rank = -1
            return None
        if slowest != self._rank:
            self._rank, self._seen, self._next = slowest, 0, 1
        self._seen += 1
        if self._seen < self._next:
            return None
        self._next *= 2
        part, own_s, others_s = _slow_part(times.by_part, slowest)
        return (
            f"rank {slowest} takes {total_s[slowest]:.3f} s for a micro-batch, {times.straggler_ratio:.1f} times the "
            f"median of all ranks, which wait for it. It is slow in {part}: {own_s:.3f} s, the median {others_s:.3f} s"
        )


def _slow_part(by_part: Mapping[str, Sequence[float]], rank: int) -> tuple[str, float, float]:
    """The part in which a rank loses most time, with its time and the median of all ranks."""
    part = max(by_part, key=lambda name: by_part[name][rank] - statistics.median_low(by_part[name]))
    return part, by_part[part][rank], statistics.median_low(by_part[part])
