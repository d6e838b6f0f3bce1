"""Bootstrap resamples and the interval of their scores."""

import math

import numpy as np
import pytest

from dist_seg.metrics.bootstrap import percentile_interval, resamples


def test_every_resample_holds_as_many_images_as_there_are() -> None:
    drawn = np.array(list(resamples(7, 500, seed=0)))
    assert drawn.shape == (500, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(7), abs=0.15)


def test_resamples_depend_on_the_seed_and_the_number_of_images_alone() -> None:
    first, again, other = (np.array(list(resamples(9, 3, seed=seed))) for seed in (4, 4, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(first, np.array(list(resamples(9, 10, seed=4)))[:3])


def test_no_images_have_no_resamples() -> None:
    assert list(resamples(0, 5, seed=0)) == []


def test_interval_holds_the_middle_95_percent_without_nan() -> None:
    scores = np.array([*range(101), math.nan], dtype=np.float64)
    assert percentile_interval(scores) == pytest.approx((2.5, 97.5))


@pytest.mark.parametrize("scores", [[], [math.nan, math.nan]])
def test_without_scores_there_is_no_interval(scores: list[float]) -> None:
    assert all(math.isnan(bound) for bound in percentile_interval(np.array(scores, dtype=np.float64)))
