"""Bytes that a rank's share of the training state takes, by engine: the formulas of ZeRO (Rajbhandari et al. 2020).

Theirs count half-precision weights beside single-precision masters; here the weights are single precision.
"""

from dataclasses import dataclass
from typing import Literal

from dist_seg.config.schema import EngineConfig

_MOMENTS = {"sgd": 1, "adamw": 2}


@dataclass(frozen=True, kw_only=True)
class StateBytes:
    """Of one rank."""

    device: int
    host: int
    """What offloading keeps on the CPU."""


def state_bytes(
    engine: EngineConfig, optimizer: Literal["sgd", "adamw"], parameter_bytes: int, world_size: int, *, ema: bool
) -> StateBytes:
    """Weights, gradients, moments and moving average; without activations, buckets and what libraries hold.

    parameter_bytes: of the whole model in single precision. Stages 1 to 3 keep a second copy of the weights that a
    rank updates, as DeepSpeed does whatever the precision. Stage 3 copies the gradients' shards before the update.
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
        # The sharded gradients are copied to where the step is made.
        host, device = updated + share, weights + (gradients if stage == 1 else 0)
    else:
        host, device = 0, weights + (2 if stage == 3 else 1) * gradients + updated
    if engine.offload_param:
        host, device = host + weights + average * ema, device - weights
        average = 0
    return StateBytes(device=device + average * ema, host=host)
