"""Runs under ZeRO keep what runs under DDP keep: skipped steps, exact resumption, whole scores, frozen parts, formats.

All on three ranks with four lanes, which they cannot share out evenly, in one spawn.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from dist_seg.checkpoint.reading import load_meta
from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.config.schema import ModelConfig
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.view.data_view import whole_view
from dist_seg.distributed.world import World
from dist_seg.engine.evaluator import evaluate
from dist_seg.engine.stop import StopSignal
from dist_seg.runs.model import load_trained
from dist_seg.storage.object_store import open_storage
from dist_seg.telemetry.events import EvalDone, Event, StepDone
from dist_seg.telemetry.jsonl import read_events
from tests.distributed.ranks import run_ranks
from tests.distributed.test_nonfinite_steps import train_poisoned
from tests.distributed.training import DETECTOR, EXACT, SmallNet, assert_equal_bits, losses, state_at, train_on

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra `deepspeed`"),
]
SIZE = 3
STAGES = (1, 2, 3)
LANES = ["train.global_batch=8", "train.micro_batch=2", "optim.lr=0.003", "optim.clip_norm=1.0", "train.ema_decay=0.9"]
FORMATS = {
    "fp16": ["train.precision=fp16"],
    "bf16": ["train.precision=bf16"],
    "offload": ["engine.offload_optimizer=true", "engine.offload_param=true"],
}
# Rank 0 has the first of the four lanes, rank 2 the last two.
POISONED_LANES = {3: 3, 4: 0}


def zero(stage: int) -> list[str]:
    return ["engine.name=deepspeed", f"engine.zero_stage={stage}"]


def frozen_encoder(config: ModelConfig, num_classes: int) -> nn.Module:
    net = SmallNet(num_classes)
    net.encoder.requires_grad_(False)
    return net


def train_all(world: World, shards: str, instances: str, folder: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for stage in STAGES:
        engine, out = [*LANES, *zero(stage)], f"{folder}/zero-{stage}"
        found[f"nonfinite-{stage}"] = train_poisoned(
            world, shards, f"{out}/nonfinite", "images", POISONED_LANES, engine=engine
        )
        train_on(world, shards, f"{out}/whole", [*engine, "train.max_steps=8", "eval.batch=8"])
        for stop_at in (3, 0):

            def on_event(event: Event, stop: StopSignal, stop_at: int = stop_at) -> None:
                if isinstance(event, StepDone) and event.step == stop_at:
                    stop.requested = True

            train_on(world, shards, f"{out}/parted", [*engine, "train.max_steps=8", "eval.batch=8"], on_event)
        frozen = [f"model.name={__name__}:frozen_encoder", "train.max_steps=2", "checkpoint.interval_steps=1"]
        train_on(world, shards, f"{out}/frozen", [*engine, *frozen])
    for name, settings in FORMATS.items():
        train_on(world, shards, f"{folder}/{name}", [*LANES, *zero(3), *settings, "train.max_steps=4"])
    train_on(world, shards, f"{folder}/fp16-ddp", [*LANES, "train.precision=fp16", "train.max_steps=4"])
    train_on(world, shards, f"{folder}/fp32", [*LANES, "train.max_steps=4"])
    detector = [*DETECTOR, *(s for s in EXACT if "precision" not in s), "optim.lr=0.01", "train.max_steps=3"]
    for name, settings in {"ddp": [], "zero-2": zero(2), "zero-3": zero(3)}.items():
        train_on(world, instances, f"{folder}/detector-{name}", [*detector, *LANES[:2], *settings])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zero")


@pytest.fixture(scope="module")
def of_rank(synthetic_shards: Path, instance_shards: Path, folder: Path) -> list[Mapping[str, Mapping[str, object]]]:
    """By rank, how the poisoned runs ended; every run lies in `folder`."""
    shards = {"shards": str(synthetic_shards), "instances": str(instance_shards)}
    found = run_ranks(f"{__name__}:train_all", SIZE, folder, **shards, folder=str(folder))
    return cast(list[Mapping[str, Mapping[str, object]]], found)


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_by_all(
    of_rank: list[Mapping[str, Mapping[str, object]]], folder: Path, stage: int
) -> None:
    assert [ranks[f"nonfinite-{stage}"]["text"] for ranks in of_rank] == [""] * SIZE
    run = folder / f"zero-{stage}" / "nonfinite"
    events = [record.event for record in read_events(run)]
    assert [e.skipped for e in events if isinstance(e, StepDone)] == [False, False, True, True, False, False]
    before, after, on = (state_at(run, step) for step in (2, 4, 5))
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    assert [key for key in before if torch.equal(after[key], on[key])] == []


@pytest.mark.usefixtures("of_rank")
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_stopped_and_resumed_ends_with_the_bits_of_the_uninterrupted_one(folder: Path, stage: int) -> None:
    runs = folder / f"zero-{stage}"
    assert_equal_bits(runs / "whole", runs / "parted", 8)


@pytest.mark.usefixtures("of_rank")
@pytest.mark.parametrize("stage", STAGES)
def test_fewer_batches_than_ranks_are_scored_as_one_process_scores_the_checkpoint(
    folder: Path, synthetic_shards: Path, stage: int
) -> None:
    run = folder / f"zero-{stage}" / "whole"
    scored = [record.event for record in read_events(run) if isinstance(record.event, EvalDone)][-1]
    trained = load_trained(CheckpointStore(run / "checkpoints").path(8), None, torch.device("cpu"))
    storage = open_storage(str(synthetic_shards))
    alone = evaluate(
        trained.model,
        task=trained.task,
        config=trained.config,
        view=whole_view(storage, load_manifest(storage)),
        split="val",
        world=World(),
    )
    assert alone is not None
    assert (scored.images, scored.weights) == (8, "ema")
    assert scored.metrics == alone.headline


@pytest.mark.usefixtures("of_rank")
@pytest.mark.parametrize("stage", STAGES)
def test_what_is_frozen_stays_and_has_no_moments(folder: Path, stage: int) -> None:
    first, second = (state_at(folder / f"zero-{stage}" / "frozen", step) for step in (1, 2))
    assert torch.equal(first["model/encoder.0.weight"], second["model/encoder.0.weight"])
    assert not torch.equal(first["model/head.0.weight"], second["model/head.0.weight"])
    assert not [key for key in second if key.startswith("optimizer/encoder")]
    assert "optimizer/head.0.weight/exp_avg" in second


@pytest.mark.usefixtures("of_rank")
@pytest.mark.parametrize("name", [*FORMATS, "fp16-ddp"])
def test_formats_of_16_bits_and_offload_train_as_fp32_but_for_rounding(folder: Path, name: str) -> None:
    found = [e.event for e in read_events(folder / name) if isinstance(e.event, StepDone) and not e.event.skipped]
    expected = losses(folder / "fp32")
    assert len(found) == 4
    assert [step.loss for step in found] == pytest.approx(expected, rel=1e-6 if name == "offload" else 0.02)
    if name != "offload":
        assert [step.loss for step in found] != expected
    meta = load_meta(CheckpointStore(folder / name / "checkpoints").path(4))
    assert meta.loss_scale == (2**16 if "fp16" in name else 1)
    assert all(t.dtype == torch.float32 for key, t in state_at(folder / name, 4).items() if key.endswith("weight"))


@pytest.mark.usefixtures("of_rank")
@pytest.mark.parametrize("name", ["zero-2", "zero-3"])
def test_mask_rcnn_has_the_loss_curve_of_ddp(folder: Path, name: str) -> None:
    expected = losses(folder / "detector-ddp")
    assert len(expected) == 3
    assert losses(folder / f"detector-{name}") == pytest.approx(expected, rel=1e-4)
