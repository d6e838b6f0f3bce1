"""Which rank is named as the slow one, in what, and how often."""

from collections.abc import Sequence

import pytest

from dist_seg.distributed.world import World
from dist_seg.engine.stragglers import RankClock, StragglerWarning
from dist_seg.telemetry.events import Event, RankTimes


def times(forward_s: Sequence[float], data_wait_s: Sequence[float] = (0.1, 0.1, 0.1)) -> RankTimes:
    return RankTimes(step=10, data_wait_s=data_wait_s, forward_s=forward_s, backward_s=[0.0] * len(forward_s))


EVEN, RANK_2_SLOW = times([0.1, 0.1, 0.1]), times([0.1, 0.1, 0.5])


def test_the_ratio_is_the_slowest_rank_over_the_median() -> None:
    assert RANK_2_SLOW.straggler_ratio == pytest.approx(0.6 / 0.2)


def test_of_two_ranks_the_faster_one_is_what_the_slower_is_compared_with() -> None:
    assert times([0.9, 0.1], [0.1, 0.1]).straggler_ratio == pytest.approx(5.0)


def test_the_slow_rank_is_named_with_the_part_that_it_is_slow_in() -> None:
    text = StragglerWarning().of(times([0.1, 0.2, 0.1], [0.1, 0.1, 0.9]))
    assert text is not None
    assert text.startswith("rank 2 takes 1.000 s for a micro-batch, 3.3 times the median")
    assert "slow in data_wait: 0.900 s, the median 0.100 s" in text


def test_a_rank_that_stays_slow_is_named_after_1_2_4_and_8_intervals() -> None:
    warning = StragglerWarning()
    assert [interval for interval in range(1, 17) if warning.of(RANK_2_SLOW)] == [1, 2, 4, 8, 16]


def test_a_rank_that_becomes_slow_again_is_named_at_once() -> None:
    warning = StragglerWarning()
    named = [warning.of(seen) is not None for seen in (RANK_2_SLOW,) * 3 + (EVEN, RANK_2_SLOW)]
    assert named == [True, True, False, False, True]


def test_differences_of_milliseconds_are_no_warning() -> None:
    assert StragglerWarning().of(times([0.001, 0.001, 0.009], [0, 0, 0])) is None


def test_a_ranks_time_is_that_of_a_micro_batch_without_its_last_backward_pass() -> None:
    events: list[Event] = []
    clock = RankClock(world=World(), lanes=3, meets_in_backward=False, interval_steps=2, emit=events.append)
    clock.add(1, data_wait_s=0.3, forward_s=[1.0, 2.0, 3.0], backward_s=[2.0, 4.0, 50.0])
    clock.add(2, data_wait_s=0.9, forward_s=[3.0, 4.0, 5.0], backward_s=[4.0, 6.0, 50.0])
    assert [vars(event) for event in events] == [
        {"step": 2, "data_wait_s": [pytest.approx(0.2)], "forward_s": [3.0], "backward_s": [4.0]}
    ]


def test_an_interval_of_0_compares_nothing() -> None:
    events: list[Event] = []
    clock = RankClock(world=World(), lanes=1, meets_in_backward=False, interval_steps=0, emit=events.append)
    clock.add(1, data_wait_s=0.3, forward_s=[1.0], backward_s=[2.0])
    assert events == []
