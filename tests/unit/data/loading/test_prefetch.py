import threading
from collections.abc import Generator

import pytest
import torch

from dist_seg.data.loading.prefetch import in_background


def _count(limit: int, made: list[int]) -> Generator[int, None, None]:
    for i in range(limit):
        made.append(i)
        yield i


def test_items_come_in_order_to_the_end() -> None:
    assert list(in_background(_count(100, []), ahead=3)) == list(range(100))


def test_no_more_than_ahead_are_made_beyond_the_one_in_hand() -> None:
    made: list[int] = []
    items = in_background(_count(100, made), ahead=2)
    next(items)
    items.close()
    assert len(made) <= 1 + 2 + 1  # in hand, waiting, and one that waits for a place


def test_an_error_arrives_after_the_items_before_it() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise KeyError("broken")

    items = in_background(failing(), ahead=5)
    assert next(items) == 1
    with pytest.raises(KeyError, match="broken"):
        next(items)


def test_closing_closes_the_generator_and_ends_the_thread() -> None:
    closed = threading.Event()

    def endless() -> Generator[int, None, None]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    items = in_background(endless(), ahead=1)
    next(items)
    items.close()
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "loader"]


def test_torch_runs_on_one_core_there_and_as_before_here() -> None:
    def num_threads() -> Generator[int, None, None]:
        yield torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(in_background(num_threads(), ahead=1)) == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
