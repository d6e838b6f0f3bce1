"""A `map` over processes."""

import os
import signal
from collections.abc import Iterator

import pytest

from dist_seg.data.inspection.workers import Workers
from dist_seg.errors import DataError


def _square(number: int) -> int:
    return number * number


def _process(_: int) -> int:
    return os.getpid()


def _refuse_three(number: int) -> int:
    if number == 3:
        raise DataError("three")
    return number


def _die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_order(count: int) -> None:
    with Workers(count) as workers:
        assert list(workers.map(_square, range(50))) == [n * n for n in range(50)]
        assert list(workers.map(_square, iter([]))) == []


def test_few_items_are_done_by_this_process_and_many_by_others() -> None:
    with Workers(2) as workers:
        assert set(workers.map(_process, range(3))) == {os.getpid()}
        assert os.getpid() not in set(workers.map(_process, range(8)))


def test_items_are_drawn_only_a_few_ahead() -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for number in range(100):
            drawn += 1
            yield number

    with Workers(2) as workers:
        results = workers.map(_square, items())
        for _ in range(10):
            next(results)
        assert drawn <= 10 + 4 * 2 + 1


def test_errors_are_the_function_s() -> None:
    with Workers(2) as workers, pytest.raises(DataError, match="three"):
        list(workers.map(_refuse_three, range(8)))


def test_a_process_that_dies_is_told_of() -> None:
    with Workers(2) as workers, pytest.raises(DataError, match=r"ended unexpectedly.*run again with fewer processes"):
        list(workers.map(_die, range(8)))
