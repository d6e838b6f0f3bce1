"""Whichever rank fails, and wherever: all ranks end, with the same words."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch

from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.data.loading.batch import Batch
from dist_seg.distributed.collectives import (
    broadcast_json,
    gather_json,
    gather_rows,
    on_every_rank,
    on_main,
    raise_if_any,
)
from dist_seg.distributed.world import World
from dist_seg.engine.stop import StopSignal
from dist_seg.errors import CheckpointError, DataError
from dist_seg.telemetry.events import Event, StepDone
from tests.distributed.ranks import ending, run_ranks
from tests.distributed.tampering import changed_batches
from tests.distributed.training import train_on

pytestmark = pytest.mark.distributed
SIZE = 3
Ending = Mapping[str, object]

USERS, BUG = DataError("shard 7 is not there"), ZeroDivisionError("a slip of ours")


def _raise(error: Exception | None) -> object:
    if error is not None:
        raise error
    return None


PAYLOAD_BYTES = 32 << 20


def receive_much(world: World) -> int:
    """Bytes by which this rank's memory grows at most while rank 0's value comes."""
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    received = on_main(lambda: "x" * PAYLOAD_BYTES)
    assert isinstance(received, str) and len(received) == PAYLOAD_BYTES
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def call_collectives(world: World) -> dict[str, object]:
    """Everything that a rank gets out of the collectives, by a name for it."""
    found: dict[str, object] = {}
    for kind, error in (("users", USERS), ("bug", BUG)):
        for failing in range(SIZE):
            own = error if world.rank == failing else None
            found[f"raise_if_any {kind} {failing}"] = ending(partial(raise_if_any, own))
            found[f"on_every_rank {kind} {failing}"] = ending(partial(on_every_rank, partial(_raise, own)))
        found[f"on_main {kind} 0"] = ending(partial(on_main, partial(_raise, error)))
    late = DataError(f"of rank {world.rank}") if world.rank else None
    found["two failures"] = ending(lambda: raise_if_any(late))
    found["no failure"] = ending(lambda: raise_if_any(None))
    found["nameless"] = ending(lambda: raise_if_any(MemoryError() if world.rank == 1 else None))
    found["result of on_every_rank"] = on_every_rank(lambda: 10 * world.rank)
    calls: list[int] = []
    on_main(lambda: calls.append(world.rank))
    found["calls of on_main"] = calls
    found["result of on_main"] = on_main(lambda: {"of": world.rank})
    found["broadcast_json"] = broadcast_json({"only": "rank 0's"} if world.rank == 0 else "x" * 1000)
    found["gather_json"] = gather_json("ä" * (100 * world.rank))
    rows = torch.full((world.rank, 2), world.rank, dtype=torch.int64)
    found["gather_rows"] = gather_rows(rows).tolist()
    found["shape without rows"] = list(gather_rows(torch.zeros(0, 4)).shape)
    found["gather_rows of fractions"] = gather_rows(torch.tensor([[0.1 * world.rank]], dtype=torch.float64)).tolist()
    return found


# A lane's batch that cannot be read: (which lane of rank 1, which is the second of three, the error).
LOADER_FAILURES: dict[str, tuple[int, Exception]] = {
    "loader, first lane": (2, USERS),
    "loader, later lane": (4, USERS),
    "loader, bug in the first lane": (2, BUG),
    "loader, bug in a later lane": (3, BUG),
}
# Where the failure of a checkpoint on rank 0 meets the others: (settings, the step after which rank 2 is told to stop).
WRITER_FAILURES = {
    "writer, between steps": (["checkpoint.interval_steps=1"], 0),
    "writer, at the end": (["checkpoint.interval_steps=100"], 0),
    "writer, at a stop signal": (["checkpoint.interval_steps=100"], 2),
}


def fail_in_training(world: World, shards: str, folder: str) -> dict[str, object]:
    found: dict[str, object] = {}

    def fail_at(failing: int, error: Exception, step: int, lane: int, batch: Batch) -> Batch:
        if (step, lane) == (2, failing):
            raise error
        return batch

    def stop_at(last: int, event: Event, stop: StopSignal) -> None:
        if isinstance(event, StepDone) and event.step == last and world.rank == 2:
            stop.requested = True

    every_step = ["checkpoint.interval_steps=1", "checkpoint.keep_last=9"]
    for name, (failing, error) in LOADER_FAILURES.items():
        with changed_batches(partial(fail_at, failing, error)):
            found[name] = ending(partial(train_on, world, shards, f"{folder}/{name}", every_step))
    for name, (settings, last) in WRITER_FAILURES.items():
        found[name] = ending(partial(train_on, world, shards, f"{folder}/{name}", settings, partial(stop_at, last)))
    return found


def call_all(world: World, shards: str, folder: str) -> dict[str, object]:
    return {**call_collectives(world), **fail_in_training(world, shards, folder)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the runs, by the names of the failures."""
    folder = tmp_path_factory.mktemp("agreement")
    for name in WRITER_FAILURES:
        (folder / name).mkdir()
        (folder / name / "checkpoints").write_text("a file where the folder should be: root may write everywhere else")
    return folder


@pytest.fixture(scope="module")
def of_rank(synthetic_shards: Path, folder: Path) -> list[Mapping[str, object]]:
    """By rank, what it found under every name."""
    found = run_ranks(f"{__name__}:call_all", SIZE, folder, shards=str(synthetic_shards), folder=str(folder))
    return cast(list[Mapping[str, object]], found)


def endings(of_rank: list[Mapping[str, object]], name: str) -> list[Ending]:
    return [cast(Ending, found[name]) for found in of_rank]


def assert_all_end_with(found: list[Ending], failing: int, text: str) -> None:
    """The failing rank with its own error, the others with the same words after its number."""
    for rank, end in enumerate(found):
        assert end["text"] == (text if rank == failing else f"rank {failing}: {text}")


FAILURES = [(f"{function} {{}} {rank}", rank) for function in ("raise_if_any", "on_every_rank") for rank in range(SIZE)]


@pytest.mark.parametrize(("name", "failing"), FAILURES)
@pytest.mark.parametrize("kind", ["users", "bug"])
def test_all_ranks_end_with_the_words_of_the_failing_one(
    of_rank: list[Mapping[str, object]], name: str, failing: int, kind: str
) -> None:
    text = str(USERS if kind == "users" else BUG)
    assert_all_end_with(endings(of_rank, name.format(kind)), failing, text)


@pytest.mark.parametrize("kind", ["users", "bug"])
def test_all_ranks_end_with_the_words_of_rank_0_where_it_works_alone(
    of_rank: list[Mapping[str, object]], kind: str
) -> None:
    texts = {end["text"] for end in endings(of_rank, f"on_main {kind} 0")}
    assert texts == {str(USERS if kind == "users" else BUG)}


@pytest.mark.parametrize(("name", "failing"), [*FAILURES, ("on_main {} 0", 0)])
def test_a_users_error_is_one_on_all_ranks_and_shared(
    of_rank: list[Mapping[str, object]], name: str, failing: int
) -> None:
    for end in endings(of_rank, name.format("users")):
        assert "UserError" in cast(list[str], end["classes"])
        assert end["shared"]


@pytest.mark.parametrize(("name", "failing"), [*FAILURES, ("on_main {} 0", 0)])
def test_a_bug_keeps_its_class_where_it_happened_and_fails_the_run_elsewhere(
    of_rank: list[Mapping[str, object]], name: str, failing: int
) -> None:
    for rank, end in enumerate(endings(of_rank, name.format("bug"))):
        assert cast(list[str], end["classes"])[0] == ("ZeroDivisionError" if rank == failing else "RunFailedError")


def test_of_two_failures_all_ranks_tell_the_first_ranks(of_rank: list[Mapping[str, object]]) -> None:
    assert_all_end_with(endings(of_rank, "two failures"), 1, "of rank 1")


def test_an_error_without_words_is_told_by_its_class(of_rank: list[Mapping[str, object]]) -> None:
    assert [end["text"] for end in endings(of_rank, "nameless")] == ["rank 1: MemoryError", "", "rank 1: MemoryError"]


def test_nothing_is_raised_where_no_rank_fails(of_rank: list[Mapping[str, object]]) -> None:
    assert [end["classes"] for end in endings(of_rank, "no failure")] == [[]] * SIZE


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("result of on_every_rank", [0, 10, 20]),
        ("result of on_main", [{"of": 0}] * SIZE),
        ("calls of on_main", [[0], [], []]),
        ("broadcast_json", [{"only": "rank 0's"}] * SIZE),
        ("gather_json", [["", "ä" * 100, "ä" * 200]] * SIZE),
        ("gather_rows", [[[1, 1], [2, 2], [2, 2]]] * SIZE),
        ("shape without rows", [[0, 4]] * SIZE),
        ("gather_rows of fractions", [[[0.0], [0.1], [0.2]]] * SIZE),
    ],
)
def test_every_rank_gets(of_rank: list[Mapping[str, object]], name: str, expected: list[object]) -> None:
    assert [found[name] for found in of_rank] == expected


@pytest.mark.parametrize("name", LOADER_FAILURES)
def test_a_loader_that_fails_on_one_rank_ends_all(of_rank: list[Mapping[str, object]], name: str) -> None:
    assert_all_end_with(endings(of_rank, name), 1, str(LOADER_FAILURES[name][1]))


@pytest.mark.parametrize("name", LOADER_FAILURES)
def test_the_step_of_a_failed_loader_does_not_count(
    of_rank: list[Mapping[str, object]], folder: Path, name: str
) -> None:
    assert CheckpointStore(folder / name / "checkpoints").steps() == [1, 2]


@pytest.mark.parametrize("name", WRITER_FAILURES)
def test_a_checkpoint_that_rank_0_cannot_write_ends_all(
    of_rank: list[Mapping[str, object]], folder: Path, name: str
) -> None:
    found = endings(of_rank, name)
    assert str(folder / name / "checkpoints") in str(found[0]["text"])
    assert_all_end_with(found, 0, str(found[0]["text"]))
    assert all("UserError" in cast(list[str], end["classes"]) for end in found)


def test_the_writers_first_failure_is_the_one_that_is_told(synthetic_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")  # neither a checkpoint nor a score can be written
    with pytest.raises(CheckpointError, match="step-00000005: the checkpoint could not be written"):
        train_on(World(), str(synthetic_shards), str(tmp_path))


def test_a_large_value_of_rank_0_takes_no_more_room_for_more_ranks(tmp_path: Path) -> None:
    _, *grown = run_ranks(f"{__name__}:receive_much", 5, tmp_path)
    assert all(int(cast(int, size)) < 3.5 * PAYLOAD_BYTES for size in grown)  # its bytes, its text, and itself
