"""Ranks that fail, hang or vanish while their peers wait in a collective, without a training around them."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch exports it at run time

from dist_seg.distributed.collectives import sum_over_ranks
from dist_seg.distributed.position import HERE
from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.watchdog import GROUP_MARGIN_S, Watchdog, watched
from dist_seg.distributed.world import World
from dist_seg.errors import ConfigError, RunFailedError
from tests.distributed.faulty_nets import hold_the_lock
from tests.distributed.loose_ranks import Rank, loose_ranks

pytestmark = pytest.mark.distributed
TIMEOUT_S, POLL_S = 8.0, 0.4


@contextmanager
def watched_group(world: World) -> Iterator[Watchdog]:
    with (
        process_group(world, TIMEOUT_S + GROUP_MARGIN_S) as start,
        watched(world, start, TIMEOUT_S, poll_s=POLL_S) as watchdog,
    ):
        print("watched", flush=True)
        yield watchdog


def do_steps(world: World, fault_of_rank_1: str) -> None:
    """Two steps of one sum each; in the second one rank 1 comes to grief."""
    with watched_group(world):
        for step in range(2):
            HERE.at("forward", step)
            if step == 1 and world.rank == 1:
                match fault_of_rank_1:
                    case "raises":
                        raise ValueError("a planted bug")
                    case "hangs":
                        time.sleep(3600)
                    case "is slow":
                        time.sleep(TIMEOUT_S / 4)
            sum_over_ranks(torch.ones(1))


def tell_the_cause(world: World) -> None:
    """As `do_steps`, saying what each rank is told."""
    try:
        do_steps(world, "raises")
    except RunFailedError as error:
        print(f"told: {error}")


def wait_for_ever(world: World) -> None:
    """A collective that is never told of a broken connection, as a GPU's: the peers of rank 1 stay in it."""
    with watched_group(world):
        HERE.at("forward", 0)
        if world.rank == 1:
            raise ValueError("a planted bug")
        with HERE.collective():
            time.sleep(3600)


def lock_at_once(world: World) -> None:
    """Rank 1 holds the interpreter's lock before its watchdog has had a turn."""
    with watched_group(world):
        if world.rank == 1:
            hold_the_lock()
        sum_over_ranks(torch.ones(1))


def sum_for_ever(world: World) -> None:
    with watched_group(world):
        while True:
            sum_over_ranks(torch.ones(1))


def begin(world: World, mistake: str) -> None:
    """A start whose rank 0 finds a mistake of the user's, if there is one."""
    with watched_group(world) as watchdog:
        watchdog.check_worth_starting()
        print(f"restarts: {watchdog.restarts}", flush=True)  # The watchdog may end it without a flush.
        if mistake:
            raise ConfigError(mistake)


def wait_until_watched(ranks: list[Rank]) -> None:
    deadline = time.monotonic() + 90
    while not all("watched" in rank.output for rank in ranks):
        assert time.monotonic() < deadline, texts(ranks)
        time.sleep(0.05)


def texts(ranks: list[Rank]) -> list[str]:
    return [rank.output for rank in ranks]


def test_a_rank_that_raises_is_named_with_its_words_by_the_others(tmp_path: Path) -> None:
    with loose_ranks(f"{__name__}:tell_the_cause", 3, tmp_path) as ranks:
        codes = [rank.ended() for rank in ranks]
    assert codes == [0, 1, 0], texts(ranks)
    for number in (0, 2):
        assert "told: rank 1: ValueError: a planted bug" in ranks[number].output
    assert 'raise ValueError("a planted bug")' in ranks[0].output  # Rank 1's traceback, in rank 0's log.


def test_a_rank_that_hangs_is_named_and_all_stacks_are_in_the_log(tmp_path: Path) -> None:
    with loose_ranks(f"{__name__}:do_steps", 3, tmp_path, fault_of_rank_1="hangs") as ranks:
        codes = [rank.ended() for rank in ranks]
    assert codes == [1, 1, 1], texts(ranks)
    assert "s in a collective (forward of step 2) for rank 1, which did not arrive" in ranks[0].output
    for rank in ranks:
        assert "in do_steps" in rank.output


def test_a_rank_that_is_slower_than_the_others_but_in_time_is_left_alone(tmp_path: Path) -> None:
    with loose_ranks(f"{__name__}:do_steps", 2, tmp_path, fault_of_rank_1="is slow") as ranks:
        codes = [rank.ended() for rank in ranks]
    assert codes == [0, 0], texts(ranks)


def test_a_rank_whose_collective_never_fails_is_ended_with_its_stacks(tmp_path: Path) -> None:
    with loose_ranks(f"{__name__}:wait_for_ever", 2, tmp_path) as ranks:
        codes = [rank.ended() for rank in ranks]
    assert codes == [1, 1], texts(ranks)
    assert "rank 1: ValueError: a planted bug" in ranks[0].output
    assert "in wait_for_ever" in ranks[0].output


def test_a_rank_that_holds_the_interpreters_lock_from_the_start_is_ended_with_its_stack(tmp_path: Path) -> None:
    with loose_ranks(f"{__name__}:lock_at_once", 2, tmp_path) as ranks:
        codes = [rank.ended() for rank in ranks]
    assert codes == [1, 1], texts(ranks)
    assert "in hold_the_lock" in ranks[1].output


@pytest.mark.parametrize(
    ("victim", "words"), [(0, "the ranks' store no longer answers"), (1, "exited without an error: rank 1")]
)
def test_a_killed_rank_ends_the_others_although_rank_0_keeps_the_store(victim: int, words: str, tmp_path: Path) -> None:
    with loose_ranks(f"{__name__}:sum_for_ever", 3, tmp_path) as ranks:
        wait_until_watched(ranks)
        ranks[victim].process.kill()
        codes = [rank.ended() for rank in ranks]
    assert codes == [-signal.SIGKILL if number == victim else 1 for number in range(3)]
    for number in {0, 1, 2} - {victim}:
        assert words in ranks[number].output


def test_a_launch_counts_its_starts_and_does_not_repeat_a_users_mistake(tmp_path: Path) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # As torchrun's agent keeps one.
    outputs = []
    for mistake in ("", "model.name: no such model", ""):
        with loose_ranks(f"{__name__}:begin", 2, tmp_path, launchers_port=store.port, mistake=mistake) as ranks:
            for rank in ranks:
                rank.ended()
        outputs.append(ranks[0].output)
    assert ["restarts: 0" in outputs[0], "restarts: 1" in outputs[1]] == [True, True], outputs
    assert "restarts:" not in outputs[2]
    assert "UserError: model.name: no such model" in outputs[2], outputs
