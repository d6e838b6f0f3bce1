"""The best interval between checkpoints, against the model that it is the optimum of."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.engine.checkpoint_interval import OptimalInterval, expected_goodput, optimal_interval_s


def test_for_cheap_saves_it_is_youngs() -> None:
    assert optimal_interval_s(0.5, 86_400) == pytest.approx(math.sqrt(2 * 0.5 * 86_400), rel=0.01)


@given(cost_s=st.floats(0.01, 100), mtbf_s=st.floats(60, 1e6), restart_s=st.floats(0, 60))
def test_no_other_interval_is_much_better(cost_s: float, mtbf_s: float, restart_s: float) -> None:
    best = optimal_interval_s(cost_s, mtbf_s)
    reached = expected_goodput(best, cost_s, restart_s, mtbf_s)
    others = (expected_goodput(best * factor, cost_s, restart_s, mtbf_s) for factor in (0.25, 0.5, 0.8, 1.25, 2, 4))
    assert all(reached >= other - 0.01 for other in others)


def test_without_failures_and_costs_all_time_is_training() -> None:
    assert expected_goodput(100.0, 0.0, 0.0, 1e12) == pytest.approx(1.0, abs=1e-6)


def test_failures_lose_the_restart_and_half_an_interval() -> None:
    """To the first order in the rate of failures."""
    assert expected_goodput(100.0, 0.0, 20.0, 1e6) == pytest.approx(1 - (20 + 50) / 1e6, abs=1e-8)


def trained(schedule: OptimalInterval, steps: int, step_s: float, *, writing: bool = False) -> None:
    for _ in range(steps):
        schedule.step_done(step_s, writing=writing)


def test_the_first_save_comes_once_a_step_is_known() -> None:
    schedule = OptimalInterval(mtbf_s=100.0)
    trained(schedule, 8, 1.0)
    assert not schedule.is_due(now=8.0)
    trained(schedule, 1, 1.0)
    assert schedule.is_due(now=9.0)


def test_the_cost_is_the_stall_and_what_the_steps_beside_it_took_longer() -> None:
    schedule = OptimalInterval(mtbf_s=100.0)
    trained(schedule, 10, 1.0)
    schedule.saved(stall_s=0.25, now=10.0)
    trained(schedule, 2, 1.5, writing=True)
    assert schedule.chosen is None
    assert not schedule.is_due(now=1e9)
    assert schedule.step_done(1.0, writing=False)
    assert schedule.chosen is not None
    assert schedule.chosen.cost_s == pytest.approx(0.25 + 2 * 0.5)
    assert schedule.chosen.interval_s == optimal_interval_s(1.25, 100.0)


def test_the_next_save_is_due_when_the_step_before_it_would_pass_the_interval() -> None:
    schedule = OptimalInterval(mtbf_s=100.0)
    trained(schedule, 10, 1.0)
    schedule.saved(stall_s=0.5, now=10.0)
    trained(schedule, 1, 1.0)
    assert schedule.chosen is not None
    due = 10.0 + schedule.chosen.interval_s - 1.0
    assert not schedule.is_due(now=due - 0.01)
    assert schedule.is_due(now=due + 0.01)
