"""Batches without objects, with one and with 400 train on every rank, without a hang and without growing memory."""

import gc
import resource
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import cast
from unittest.mock import patch

import pytest
import torch

from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.objects import ImageObjects
from dist_seg.distributed.world import World
from dist_seg.engine.stop import StopSignal
from dist_seg.telemetry.events import Event, StepDone
from tests.distributed.ranks import run_ranks
from tests.distributed.training import DETECTOR, train_on
from tests.unit.models.mask_rcnn.detection import rectangles, scattered

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

COUNTS = (400, 0, 1)
LANES = len(COUNTS)
SIZE = 96
CYCLES, SETTLED = 7, 3
"""Of three steps each; by the third, allocator and optimiser hold what they will."""
SETTINGS = [
    *DETECTOR,
    f"train.global_batch={LANES}",
    "train.micro_batch=1",
    "optim.lr=0.0001",
    "mask_rcnn.roi_samples=64",
    "mask_rcnn.mask_samples=64",
    "telemetry.digest_interval_steps=0",
]


def batch_of(step: int, lane: int, count: int) -> Batch:
    generator = torch.Generator().manual_seed(step * LANES + lane)
    drawn = scattered(count, SIZE, seed=step * LANES + lane)
    objects = ImageObjects(
        boxes=drawn.boxes, labels=drawn.labels, ignored=drawn.ignored, layers=drawn.layers, ids=drawn.ids
    )
    return Batch(
        images=torch.randn(1, 3, SIZE, SIZE, generator=generator),
        targets=rectangles(drawn, SIZE, SIZE)[None],
        keys=(f"{step}-{lane}",),
        objects=(objects,),
        digest=step * LANES + lane,
    )


def train_with(
    world: World,
    shards: str,
    run_dir: str,
    count_of: Callable[[int, int], int],
    steps: int,
    on_event: Callable[[Event, StopSignal], None],
) -> None:
    """Trains on batches with `count_of(step, lane)` objects in place of those of the shards."""

    def batches(
        config: object, view: object, plan: object, units: Iterable[tuple[int, int]], *rest: object
    ) -> Generator[Batch, None, None]:
        for step, lane in units:
            yield batch_of(step, lane, count_of(step, lane))

    with patch("dist_seg.engine.run.train_batches", batches):
        outcome = train_on(world, shards, run_dir, [*SETTINGS, f"train.max_steps={steps}"], on_event)
    assert outcome.complete


def train_with_one_count_a_lane(world: World, shards: str, folder: str) -> list[dict[str, float]]:
    """The losses of every step."""
    found: list[dict[str, float]] = []

    def on_event(event: Event, stop: StopSignal) -> None:
        if isinstance(event, StepDone):
            found.append({**event.parts, "gradient": event.grad_norm})

    train_with(world, shards, f"{folder}/by-lane-{world.size}", lambda step, lane: COUNTS[lane], 3, on_event)
    return found


def train_with_changing_counts(world: World, shards: str, folder: str) -> list[tuple[int, int]]:
    """After every third step, when each rank has seen every count: bytes of live tensors, peak memory in KiB."""
    held: list[tuple[int, int]] = []

    def on_event(event: Event, stop: StopSignal) -> None:
        if isinstance(event, StepDone) and event.step % LANES == 0:
            held.append((live_tensor_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))

    def count_of(step: int, lane: int) -> int:
        return COUNTS[(step + lane) % LANES]

    train_with(world, shards, f"{folder}/changing", count_of, CYCLES * LANES, on_event)
    return held


def live_tensor_bytes() -> int:
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def train_both(world: World, shards: str, folder: str) -> dict[str, object]:
    return {
        "losses": train_with_one_count_a_lane(world, shards, folder),
        "held": train_with_changing_counts(world, shards, folder) if world.size > 1 else [],
    }


@pytest.fixture(scope="module")
def trained(instance_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, object]]]:
    """By number of ranks, 1 and 3: what each rank has noted. Of three, the second never has an object at first."""
    folder = tmp_path_factory.mktemp("object_counts")
    function = f"{__name__}:train_both"
    runs = [run_ranks(function, size, folder, shards=str(instance_shards), folder=str(folder)) for size in (1, LANES)]
    return cast(list[list[dict[str, object]]], runs)


def test_a_rank_without_any_object_takes_part_in_every_step(trained: list[list[dict[str, object]]]) -> None:
    ((alone,), spread) = trained
    expected = cast(list[dict[str, float]], alone["losses"])
    assert len(expected) == 3
    for of_rank in spread:
        for found, step in zip(cast(list[dict[str, float]], of_rank["losses"]), expected, strict=True):
            assert found == pytest.approx(step, rel=1e-3)


def test_every_loss_is_finite_and_above_zero_with_objects_on_some_ranks_only(
    trained: list[list[dict[str, object]]],
) -> None:
    for step in cast(list[dict[str, float]], trained[1][1]["losses"]):
        assert set(step) == {"rpn_objectness", "rpn_box", "classification", "box", "mask", "gradient"}
        assert all(0 < value < float("inf") for value in step.values())


def test_no_tensor_outlives_its_step(trained: list[list[dict[str, object]]]) -> None:
    for of_rank in trained[1]:
        live = [tensors for tensors, _ in cast(list[tuple[int, int]], of_rank["held"])]
        assert len(live) == CYCLES
        assert live[SETTLED:] == [live[SETTLED]] * (CYCLES - SETTLED)


def test_memory_does_not_grow_with_the_number_of_steps(trained: list[list[dict[str, object]]]) -> None:
    for of_rank in trained[1]:
        peaks = [peak for _, peak in cast(list[tuple[int, int]], of_rank["held"])]
        # Graphs that outlive their steps would come to far more by then.
        assert peaks[-1] - peaks[SETTLED] < 16 * 1024
