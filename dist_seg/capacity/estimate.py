"""Estimates of time and memory before the first step."""

from dataclasses import dataclass
from typing import Literal

from dist_seg.capacity.measure import Measured, seconds_per_step
from dist_seg.config.schema import Config, EngineConfig
from dist_seg.data.codecs.annotations import MAX_LAYERS
from dist_seg.data.view.pixel_values import input_channels
from dist_seg.distributed.world import World

_MOMENTS = {"sgd": 1, "adamw": 2}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Time of a whole run and memory of one rank."""

    seconds: float
    device_bytes: int
    """Weights, gradients, optimiser moments, moving average and activations."""
    host_bytes: int
    """Decoded micro-batches that wait for training, and offloaded state."""
    process_bytes: int
    """The interpreter, its libraries and the data's indexes."""

    @property
    def total_bytes(self) -> int:
        return self.process_bytes + self.device_bytes + self.host_bytes


def estimate(config: Config, world: World, measured: Measured) -> Estimate:
    """Time and memory of a run. config: with all settings chosen."""
    train, augment = config.train, config.augment
    assert train.max_steps and train.micro_batch and augment.crop_height and augment.crop_width
    state = state_bytes(
        config.engine, config.optim.name, measured.parameter_bytes, world.size, ema=bool(train.ema_decay)
    )
    pixels = train.micro_batch * augment.crop_height * augment.crop_width
    target_bytes = 4 * MAX_LAYERS if config.task == "instance" else measured.target_bytes
    return Estimate(
        seconds=train.max_steps * seconds_per_step(config, world, measured),
        device_bytes=state.device + measured.activation_bytes,
        process_bytes=measured.process_bytes,
        host_bytes=state.host + (config.data.prefetch + 1) * pixels * (input_channels(config.data) * 4 + target_bytes),
    )


@dataclass(frozen=True, kw_only=True)
class StateBytes:
    """Bytes of the training state on one rank."""

    device: int
    host: int
    """State that offloading keeps on the CPU."""


def state_bytes(
    engine: EngineConfig, optimizer: Literal["sgd", "adamw"], parameter_bytes: int, world_size: int, *, ema: bool
) -> StateBytes:
    """Weights, gradients, moments and moving average; without activations, buckets and library buffers.

    parameter_bytes: of the whole model in single precision. In stages 1 to 3, DeepSpeed keeps a second copy of the
    weights that a rank updates, at any precision. Stage 3 copies the shards of the gradients before the update.
    """
    whole, share = parameter_bytes, -(-parameter_bytes // world_size)
    moments = _MOMENTS[optimizer]
    stage = 0 if engine.name == "ddp" else engine.zero_stage
    if stage == 0:
        return StateBytes(device=(2 + moments + ema) * whole, host=0)
    weights = average = share if stage == 3 else whole
    gradients = whole if stage == 1 else share
    updated = share + moments * share
    if engine.offload_optimizer:
        # The sharded gradients are copied to the CPU, where the step runs.
        host, device = updated + share, weights + (gradients if stage == 1 else 0)
    else:
        host, device = 0, weights + (2 if stage == 3 else 1) * gradients + updated
    if engine.offload_param:
        host, device = host + weights + average * ema, device - weights
        average = 0
    return StateBytes(device=device + average * ema, host=host)
