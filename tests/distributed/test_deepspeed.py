"""ZeRO trains as DDP does, and each takes up what the other has left; real DeepSpeed over gloo, on one to three ranks.

Everything that a number of ranks is to show is trained in one spawn.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.world import World
from dist_seg.runs.audit import audit
from tests.distributed.ranks import launch_ranks
from tests.distributed.training import EXACT, losses, state_at, train_on

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra `deepspeed`"),
]

SIZES = (1, 2, 3)
ZERO = {f"zero-{stage}": ["engine.name=deepspeed", f"engine.zero_stage={stage}"] for stage in (0, 1, 2, 3)}
ENGINES = {"ddp": ["engine.name=ddp"], **ZERO}
# Four lanes, which three ranks cannot share out evenly. Clipping, moving average and batch norm are on.
LANES = ["train.global_batch=8", "train.micro_batch=2", "telemetry.digest_interval_steps=1"]
# Adam's division would hide a wrong factor of the gradient, a warm-up a wrong first step.
PLAIN_SGD = [*(s for s in EXACT if "precision" not in s), "optim.lr=0.1", "train.max_steps=20"]
# After one step the momentum is the gradient itself, before any rounding of the weights.
ONE_STEP = [*PLAIN_SGD, "optim.momentum=0.9", "optim.clip_norm=0", "train.max_steps=1"]
ADAM = [
    "optim.name=adamw",
    "optim.lr=0.003",
    "train.ema_decay=0.9",
    "optim.clip_norm=1.0",
    "checkpoint.interval_steps=5",
]
TAKEN_AT, MAX_STEPS = 5, 10


def train_all(world: World, shards: str, folder: str, writers_size: int) -> None:
    """writers_size: the number of ranks whose checkpoints are taken up."""
    with process_group(world, timeout_s=120, single=True):
        for name, engine in ENGINES.items():
            train_on(world, shards, f"{folder}/curve-{name}", [*LANES, *engine, *PLAIN_SGD])
            train_on(world, shards, f"{folder}/step-{name}", [*LANES, *engine, *ONE_STEP])
            train_on(world, shards, f"{folder}/adam-{name}", [*LANES, *engine, *ADAM, f"train.max_steps={MAX_STEPS}"])
        written = Path(folder).with_name(f"ranks-{writers_size}")
        for writer in ENGINES:
            for reader, engine in ENGINES.items():
                source = f"checkpoint.resume={written}/adam-{writer}/checkpoints/step-{TAKEN_AT:08d}"
                run_dir = f"{folder}/{writer}-to-{reader}"
                train_on(world, shards, run_dir, [*LANES, *engine, *ADAM, f"train.max_steps={MAX_STEPS}", source])


@pytest.fixture(scope="module")
def runs(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `ranks-N` of runs; each number of ranks takes up what the one before has written."""
    out = tmp_path_factory.mktemp("engines")
    for size in SIZES:
        launch_ranks(
            f"{__name__}:train_all",
            size,
            out,
            shards=str(synthetic_shards),
            folder=str(out / f"ranks-{size}"),
            writers_size=max(1, size - 1),
        )
    return out


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("engine", ZERO)
def test_zero_has_the_loss_curve_of_ddp(runs: Path, size: int, engine: str) -> None:
    expected = losses(runs / "ranks-1" / "curve-ddp")
    assert len(expected) == 20
    assert expected[-1] < 0.9 * expected[0]
    assert losses(runs / f"ranks-{size}" / f"curve-{engine}") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("engine", ZERO)
def test_zero_has_the_gradient_of_ddp(runs: Path, size: int, engine: str) -> None:
    expected, found = (
        {key: tensor for key, tensor in state_at(run, 1).items() if key.endswith("/momentum_buffer")}
        for run in (runs / "ranks-1" / "step-ddp", runs / f"ranks-{size}" / f"step-{engine}")
    )
    assert found.keys() == expected.keys()
    assert len(expected) > 5
    whole = torch.cat([tensor.flatten() for tensor in expected.values()])
    assert float(whole.norm()) > 0.01
    difference = torch.cat([(found[key] - expected[key]).flatten() for key in expected])
    assert float(difference.norm() / whole.norm()) < 1e-5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_the_batches_of_ddp_on_one_rank(runs: Path, size: int, engine: str) -> None:
    result = audit(runs / "ranks-1" / "adam-ddp", runs / f"ranks-{size}" / f"adam-{engine}")
    assert result.compared_steps == MAX_STEPS
    assert result.batch_differs_at is None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_leaves_the_same_canonical_state(runs: Path, size: int, engine: str) -> None:
    expected = state_at(runs / "ranks-1" / "adam-ddp", TAKEN_AT)
    found = state_at(runs / f"ranks-{size}" / f"adam-{engine}", TAKEN_AT)
    assert {key: (t.shape, t.dtype) for key, t in found.items()} == {
        key: (t.shape, t.dtype) for key, t in expected.items()
    }
    # As wholes: Adam turns the rounding of a bias before batch norm, whose gradient is 0, into steps of full size.
    for kind in ("model/", "ema/", "/exp_avg", "/exp_avg_sq", "/step"):
        keys = [key for key in expected if key.startswith(kind) or key.endswith(kind)]
        whole = torch.cat([expected[key].flatten().double() for key in keys])
        difference = torch.cat([found[key].flatten().double() for key in keys]) - whole
        assert float(difference.norm() / whole.norm()) < 1e-2, kind


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("writer", ENGINES)
@pytest.mark.parametrize("reader", ENGINES)
def test_a_checkpoint_moves_between_engines_and_numbers_of_ranks(
    runs: Path, size: int, writer: str, reader: str
) -> None:
    expected = losses(runs / "ranks-1" / "adam-ddp")[TAKEN_AT:]
    assert len(expected) == MAX_STEPS - TAKEN_AT
    assert losses(runs / f"ranks-{size}" / f"{writer}-to-{reader}") == pytest.approx(expected, rel=1e-4)
