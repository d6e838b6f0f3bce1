"""Collectives of a single process, where nothing is communicated; of several, see tests/distributed."""

from collections.abc import Callable

import pytest
import torch

from dist_seg.distributed import collectives
from dist_seg.distributed.collectives import (
    barrier,
    broadcast_json,
    gather_json,
    gather_rows,
    on_every_rank,
    on_main,
    raise_if_any,
    rank,
    sum_over_ranks,
    world_size,
)
from dist_seg.errors import DataError


def test_a_process_without_a_group_is_rank_0_of_1() -> None:
    assert (rank(), world_size()) == (0, 1)


def test_sums_and_rows_are_its_own() -> None:
    tensor = torch.arange(6).reshape(3, 2)
    assert sum_over_ranks(tensor) is tensor
    assert torch.equal(gather_rows(tensor), torch.arange(6).reshape(3, 2))
    barrier()


def test_values_come_back_as_they_would_from_another_rank() -> None:
    assert gather_json({"pair": (1, 2)}) == [{"pair": [1, 2]}]
    assert broadcast_json((None, "ä")) == [None, "ä"]
    assert on_main(lambda: (1, 2)) == [1, 2]


def test_a_result_of_work_on_every_rank_is_passed_on_as_it_is() -> None:
    result = object()
    assert on_every_rank(lambda: result) is result


@pytest.mark.parametrize("error", [DataError("shard 7 is not there"), ZeroDivisionError("a slip of ours")])
def test_a_failure_is_raised_itself_and_names_no_rank(error: Exception) -> None:
    def fail() -> None:
        raise error

    ways: list[Callable[[], object]] = [lambda: raise_if_any(error), lambda: on_every_rank(fail), lambda: on_main(fail)]
    for raising in ways:
        with pytest.raises(type(error)) as caught:
            raising()
        assert caught.value is error
        assert not str(error).startswith("rank")


def test_without_a_failure_nothing_is_raised() -> None:
    raise_if_any(None)


def test_other_ranks_hear_of_an_error_without_words_by_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, object]] = []
    monkeypatch.setattr(collectives, "broadcast_json", lambda value: sent.append(value) or value)

    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        collectives.on_main(fail)
    assert sent == [{"failure": {"text": "MemoryError", "is_users": False}}]


def test_a_result_that_cannot_travel_is_told_to_other_ranks_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, object]] = []
    monkeypatch.setattr(collectives, "broadcast_json", lambda value: sent.append(value) or value)
    with pytest.raises(TypeError, match="not JSON serializable"):
        collectives.on_main(object)
    assert "not JSON serializable" in str(sent[0]["failure"])
