"""Trainings in which a rank is killed, runs out of memory, hangs or is slow, and one whose number of ranks changes."""

import json
import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.watchdog import GROUP_MARGIN_S, watched
from dist_seg.distributed.world import World
from dist_seg.engine.stop import StopSignal
from dist_seg.runs.audit import audit
from dist_seg.telemetry.events import Event, RankTimes, RunEnded, RunStarted, StepDone
from dist_seg.telemetry.jsonl import read_log
from tests.distributed.launched_training import LaunchedTraining, at_step, torchrun
from tests.distributed.loose_ranks import loose_ranks
from tests.distributed.ranks import run_ranks
from tests.distributed.training import assert_equal_bits, train_on

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds a command's processes in Linux's /proc"),
]
SIZE, MAX_STEPS = 3, 30
NETS = "model.name=tests.distributed.faulty_nets"
KEPT = ["checkpoint.interval_steps=4", f"train.max_steps={MAX_STEPS}"]
TIMEOUT_S = 10.0


class SlowlyCounted:
    """A metric that leaves a mark in the working directory, and takes time enough to be killed in."""

    def of_image(self, prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        Path("evaluating").touch()
        time.sleep(0.3)
        return torch.ones(1)

    def result(self, total: torch.Tensor) -> dict[str, float]:
        return {"images": float(total)}


def slowly_counted(class_names: list[str], ignore_index: int) -> SlowlyCounted:
    return SlowlyCounted()


def evaluating(run: Path) -> bool:
    return (run.parent / "evaluating").exists()


def train(world: World, shards: str, run_dir: str, settings: list[str]) -> None:
    train_on(world, shards, run_dir, settings)


@pytest.fixture
def unused_ports() -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(4)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@pytest.fixture(scope="module")
def undisturbed(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on three ranks without interruption."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_ranks(
        f"{__name__}:train", SIZE, folder, shards=str(synthetic_shards), run_dir=str(folder / "run"), settings=KEPT
    )
    return folder / "run"


def test_ranks_killed_in_a_step_and_in_an_evaluation_are_restarted_to_the_same_bits(
    undisturbed: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    scored = ["train.eval_interval_steps=20", f"eval.metrics=[{__name__}:slowly_counted]"]
    with LaunchedTraining(synthetic_shards, run, [*KEPT, *scored], max_restarts=2) as training:
        training.kill_rank_at(1, at_step(6))
        training.kill_rank_at(2, evaluating)
        assert training.ended() == 0, training.output
    starts = [record.event.step for record in read_log(run) if isinstance(record.event, RunStarted)]
    assert starts[0] == 0 and starts[1] in (4, 8, 12) and starts[2:] == [20], training.output
    assert "exited without an error: rank 1" in training.output
    assert_equal_bits(undisturbed, run, MAX_STEPS)


def test_sigterm_to_torchrun_leaves_a_checkpoint_from_which_the_bits_are_the_same(
    undisturbed: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = [*KEPT, "checkpoint.interval_steps=1000"]
    with LaunchedTraining(synthetic_shards, run, settings, launcher=torchrun(SIZE)) as training:
        training.send_at(signal.SIGTERM, at_step(3))
        training.ended()
    outcome = json.loads((run / "outcome.json").read_text())
    assert (outcome["outcome"], outcome["exit_code"]) == ("preempted", 143), training.output
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == [f"step-{outcome['step']:08d}"]
    run_ranks(f"{__name__}:train", SIZE, tmp_path, shards=str(synthetic_shards), run_dir=str(run), settings=KEPT)
    assert_equal_bits(undisturbed, run, MAX_STEPS)


def test_a_rank_out_of_memory_ends_all_and_says_what_to_change(synthetic_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with LaunchedTraining(synthetic_shards, run, [f"{NETS}:out_of_memory"]) as training:
        assert training.ended() == 1, training.output
    outcome = json.loads((run / "outcome.json").read_text())
    assert (outcome["outcome"], outcome["exit_code"]) == ("failed", 1)
    assert outcome["reason"].startswith("rank 1 ran out of memory on cpu in forward of step 4"), outcome
    for words in ("train.micro_batch=2", "crops of 32x32", "lower train.micro_batch"):
        assert words in outcome["reason"]
    ended = read_log(run)[-1].event
    assert isinstance(ended, RunEnded) and ended.reason == outcome["reason"]
    first = next(line for line in training.output.splitlines() if "rank 0]" in line and "rror" in line)
    assert "rank 1 ran out of memory" in first


def train_impatiently(world: World, shards: str, run_dir: str, net: str) -> None:
    with (
        process_group(world, TIMEOUT_S + GROUP_MARGIN_S) as start,
        watched(world, start, TIMEOUT_S, poll_s=0.4),
    ):
        train_on(world, shards, run_dir, [f"{NETS}:{net}", "train.max_steps=6"])


def test_a_rank_that_hangs_in_c_with_the_interpreters_lock_leaves_its_stack_too(
    synthetic_shards: Path, tmp_path: Path
) -> None:
    arguments = {"shards": str(synthetic_shards), "run_dir": str(tmp_path / "run"), "net": "locking"}
    with loose_ranks(f"{__name__}:train_impatiently", SIZE, tmp_path, **arguments) as ranks:
        codes = [rank.ended() for rank in ranks]
    assert codes == [1, 1, 1], ranks[0].output
    assert "(backward of step 4) for rank 1, which did not arrive" in ranks[0].output
    assert "in hold_the_lock" in ranks[1].output


def train_with_metrics(world: World, shards: str, run_dir: str) -> list[object]:
    """The straggler ratio at the end, the slowest rank by rank 0's events, and the metrics that rank 0 serves."""
    from prometheus_client import generate_latest

    from dist_seg.telemetry.prometheus import PrometheusSink

    sink = PrometheusSink(address="127.0.0.1", requested_port=0, rank=world.rank)
    told: list[RankTimes] = []

    def on_event(event: Event, stop: StopSignal) -> None:
        sink.emit(event)
        if isinstance(event, RankTimes):
            told.append(event)

    interval = ["train.max_steps=4", "telemetry.rank_times_interval_steps=2"]
    train_on(world, shards, run_dir, [f"{NETS}:slow", *interval], on_event)
    page = generate_latest(sink.registry).decode()
    sink.close()
    return [[event.step for event in told], [list(event.own_s).index(max(event.own_s)) for event in told], page]


def test_the_slow_rank_is_the_one_that_events_and_metrics_show(synthetic_shards: Path, tmp_path: Path) -> None:
    found = run_ranks(
        f"{__name__}:train_with_metrics", SIZE, tmp_path, shards=str(synthetic_shards), run_dir=str(tmp_path / "run")
    )
    steps, slowest, page = found[0]  # type: ignore[misc]  # JSON of three values
    assert steps == [2, 4]
    assert slowest == [1, 1]
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    forward = {rank: float(values[f'dist_seg_rank_seconds{{part="forward",rank="{rank}"}}']) for rank in range(SIZE)}
    assert max(forward, key=forward.__getitem__) == 1
    assert float(values["dist_seg_straggler_ratio"]) > 1.5


def train_on_changing_ranks(world: World, shards: str, run_dir: str, sizes: list[int], ports: list[int]) -> None:
    """A quarter of the steps on each number of ranks; who is not among them waits for its turn."""
    for part, (size, port) in enumerate(zip(sizes, ports, strict=True), start=1):
        until = MAX_STEPS * part // len(sizes)

        def stop_in_time(event: Event, stop: StopSignal, until: int = until) -> None:
            if isinstance(event, StepDone) and event.step == until < MAX_STEPS:
                stop.requested = True

        if world.rank < size:
            os.environ.update(WORLD_SIZE=str(size), MASTER_PORT=str(port))
            smaller = World(rank=world.rank, size=size, local_rank=world.rank, local_size=size)
            with process_group(smaller, timeout_s=120):
                train_on(smaller, shards, run_dir, KEPT, stop_in_time)


def test_a_run_on_4_3_2_and_4_ranks_sees_the_batches_of_the_undisturbed_one(
    undisturbed: Path, synthetic_shards: Path, tmp_path: Path, unused_ports: list[int]
) -> None:
    run = tmp_path / "run"
    folder = {"shards": str(synthetic_shards), "run_dir": str(run)}
    sizes = [4, 3, 2, 4]
    with loose_ranks(
        f"{__name__}:train_on_changing_ranks", 4, tmp_path, sizes=sizes, ports=unused_ports, **folder
    ) as ranks:
        assert [rank.ended() for rank in ranks] == [0] * 4, ranks[0].output
    started = [record.event for record in read_log(run) if isinstance(record.event, RunStarted)]
    assert [event.world_size for event in started] == sizes
    result = audit(undisturbed, run)
    assert (result.compared_steps, result.batch_differs_at) == (MAX_STEPS, None)
