"""ZeRO's formulas, on a model of 1,200 bytes."""

import pytest

from dist_seg.capacity.estimate import StateBytes, state_bytes
from dist_seg.config.schema import EngineConfig


def zero(stage: int, *, optimizer: bool = False, param: bool = False) -> EngineConfig:
    return EngineConfig(name="deepspeed", zero_stage=stage, offload_optimizer=optimizer, offload_param=param)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("engine", "device", "host"),
    [
        (EngineConfig(), 4 * 1200, 0),  # weights, gradients, two moments
        (zero(0), 4 * 1200, 0),
        (zero(1), 2 * 1200 + 3 * 400, 0),  # master and two moments are shared out
        (zero(2), 1200 + 4 * 400, 0),  # gradients too
        (zero(3), 6 * 400, 0),  # everything; gradients twice, as their copy is what the update reads
        (zero(2, optimizer=True), 1200, 4 * 400),
        (zero(3, optimizer=True), 400, 4 * 400),
        (zero(3, optimizer=True, param=True), 0, 5 * 400),
    ],
)
def test_bytes_of_a_rank_of_three(engine: EngineConfig, device: int, host: int) -> None:
    assert state_bytes(engine, "adamw", 1200, 3, ema=False) == StateBytes(device=device, host=host)


@pytest.mark.parametrize(("engine", "average"), [(EngineConfig(), 1200), (zero(2), 1200), (zero(3), 400)])
def test_the_moving_average_is_sharded_with_the_weights(engine: EngineConfig, average: int) -> None:
    without = state_bytes(engine, "sgd", 1200, 3, ema=False).device
    assert state_bytes(engine, "sgd", 1200, 3, ema=True).device == without + average
