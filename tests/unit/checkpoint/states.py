"""Small training states for the tests of checkpoints."""

import torch

from dist_seg.checkpoint.state import CheckpointMeta, TrainingState


def state_of(step: int) -> TrainingState:
    """Of a step; another one for every step."""
    torch.manual_seed(step)
    return TrainingState(
        meta=CheckpointMeta(
            step=step,
            config={"train": {"seed": 0}},
            manifest={"hash": "abc"},
            world_size=2,
            bad_samples={"k": "why"},
        ),
        model={
            "weight": torch.randn(3, 4),
            "steps": torch.tensor(step),
            "double": torch.randn(2, dtype=torch.float64),
            "long": torch.randn(1500),
        },
        ema={"weight": torch.randn(3, 4), "long": torch.randn(1500)},
        optimizer={
            "weight/exp_avg": torch.randn(3, 4),
            "weight/step": torch.tensor(float(step)),
            "long/exp_avg": torch.randn(1500),
        },
    )


def differences(a: TrainingState, b: TrainingState) -> list[str]:
    """What is not equal to the bit."""
    found = [] if a.meta == b.meta else ["meta"]
    for part in ("model", "ema", "optimizer"):
        left, right = getattr(a, part), getattr(b, part)
        found += [f"{part}/{name}" for name in left.keys() ^ right.keys()]
        found += [f"{part}/{name}" for name in left.keys() & right.keys() if not torch.equal(left[name], right[name])]
    return found
