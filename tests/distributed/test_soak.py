"""What takes too long for every run of the tests: many kills, and machines that are lost and come back."""

import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from dist_seg.distributed.world import World
from dist_seg.runs.audit import audit
from dist_seg.telemetry.events import RunStarted, StepDone
from dist_seg.telemetry.jsonl import read_log
from tests.distributed.launched_training import LaunchedTraining, at_step, torchrun, writing_a_checkpoint
from tests.distributed.ranks import free_port, run_ranks
from tests.distributed.training import assert_equal_bits, train_on

pytestmark = [
    pytest.mark.soak,
    pytest.mark.distributed,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds a command's processes in Linux's /proc"),
]
NUM_KILLS, MAX_STEPS = 20, 160


def train(world: World, shards: str, run_dir: str, settings: list[str]) -> None:
    train_on(world, shards, run_dir, settings)


def after(seconds: float, step: int) -> Callable[[Path], bool]:
    """Wherever the run is by then, its start-up included, but at that step at the latest: machines differ in speed."""
    begin, done = time.monotonic(), at_step(step)
    return lambda run: time.monotonic() - begin > seconds or done(run)


def last_step(run: Path) -> int:
    return max((record.event.step for record in read_log(run) if isinstance(record.event, StepDone)), default=0)


def test_a_run_killed_twenty_times_ends_with_the_bits_of_the_undisturbed_one(
    synthetic_shards: Path, tmp_path: Path
) -> None:
    settings = [f"train.max_steps={MAX_STEPS}", "train.eval_interval_steps=25", "checkpoint.interval_steps=2"]
    draw = random.Random("twenty kills")
    run, other = tmp_path / "run", tmp_path / "undisturbed"
    run_ranks(f"{__name__}:train", 3, tmp_path, shards=str(synthetic_shards), run_dir=str(other), settings=settings)
    for _ in range(NUM_KILLS):
        before = last_step(run)
        further = before + draw.randrange(1, 6)
        anywhere = after(draw.uniform(1, 20), before + MAX_STEPS // NUM_KILLS - 1)
        moment = draw.choice([at_step(further), writing_a_checkpoint(further), anywhere])
        with LaunchedTraining(synthetic_shards, run, settings) as training:
            training.kill_at(moment, with_ranks=moment is not anywhere)
    with LaunchedTraining(synthetic_shards, run, settings) as training:
        assert training.ended() == 0, training.output
    assert_equal_bits(other, run, MAX_STEPS)


def trains_on(num_ranks: int, num_steps: int) -> Callable[[Path], bool]:
    """The newest start is on so many ranks and has done so many steps."""

    def reached(run: Path) -> bool:
        size, done = 0, 0
        for record in read_log(run):
            if isinstance(record.event, RunStarted):
                size, done = record.event.world_size, 0
            done += isinstance(record.event, StepDone)
        return size == num_ranks and done >= num_steps

    return reached


def test_machines_that_leave_and_come_back_see_the_batches_of_the_undisturbed_run(
    synthetic_shards: Path, tmp_path: Path
) -> None:
    steps = ["train.max_steps=400"]
    settings = [*steps, "checkpoint.interval_steps=5"]
    run, other = tmp_path / "run", tmp_path / "undisturbed"
    run_ranks(f"{__name__}:train", 1, tmp_path, shards=str(synthetic_shards), run_dir=str(other), settings=steps)
    meeting = ["--nnodes", "2:4", "--max-restarts", "20", "--rdzv-backend", "c10d", "--rdzv-id", "soak"]
    meeting += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--local-addr", "127.0.0.1"]
    patience = "last_call_timeout=10,keep_alive_interval=1,keep_alive_max_attempt=5"
    with ExitStack() as running:

        def machine(is_host: int = 0) -> LaunchedTraining:
            # All have the address of the endpoint here: else whichever comes first would keep the rendezvous.
            launcher = torchrun(1, *meeting, "--rdzv-conf", f"{patience},is_host={is_host}")
            return running.enter_context(LaunchedTraining(synthetic_shards, run, settings, launcher=launcher))

        # The first keeps the rendezvous and stays.
        machines = [machine(is_host=1), machine(), machine(), machine()]
        machines[0].wait_until(trains_on(4, 10))
        machines.pop().kill()
        machines[0].wait_until(trains_on(3, 10))
        machines.pop().kill()
        machines[0].wait_until(trains_on(2, 10))
        for training in machines:
            training.send_at(signal.SIGTERM, trains_on(2, 10))
        for training in machines:
            training.ended()
        meeting[meeting.index("--rdzv-id") + 1] = "soak again"
        machines = [machine(is_host=1), machine(), machine(), machine()]
        assert [training.ended() for training in machines] == [0] * 4, machines[0].output
    starts = [record.event for record in read_log(run) if isinstance(record.event, RunStarted)]
    assert [event.world_size for event in starts] == [4, 3, 2, 4]
    result = audit(run, other)
    assert (result.compared_steps, result.batch_differs_at) == (400, None)
