from collections.abc import Callable

import pytest

from dist_seg.telemetry.events import RunEnded, RunStarted, StepDone


@pytest.fixture
def step_done() -> Callable[..., StepDone]:
    """A step of 1 s: 0.1 data wait, 0.3 forward, 0.4 backward, 0.1 optimiser, 0.1 other; 4 samples."""

    def build(step: int, **changes: object) -> StepDone:
        fields: dict[str, object] = {
            "step": step,
            "epoch": 0,
            "loss": 1.0 / step,
            "parts": {"cross_entropy": 1.0 / step},
            "lr": 0.01,
            "grad_norm": 2.5,
            "skipped": False,
            "samples": 4,
            "step_s": 1.0,
            "data_wait_s": 0.1,
            "forward_s": 0.3,
            "backward_s": 0.4,
            "optimizer_s": 0.1,
        }
        return StepDone(**(fields | changes))  # type: ignore[arg-type]

    return build


@pytest.fixture
def run_started() -> Callable[..., RunStarted]:
    def build(step: int = 0, **changes: object) -> RunStarted:
        fields: dict[str, object] = {
            "step": step,
            "max_steps": 100,
            "steps_per_epoch": 10,
            "world_size": 2,
            "global_batch": 8,
            "micro_batch": 4,
            "device": "cpu",
            "class_names": ("sky", "road"),
            "manifest_hash": "abc",
            "versions": {"torch": "2.14.1", "dist-seg": "0.1.0"},
            "startup_s": 5.0,
        }
        return RunStarted(**(fields | changes))  # type: ignore[arg-type]

    return build


@pytest.fixture
def run_ended() -> Callable[..., RunEnded]:
    def build(step: int, outcome: str = "complete", **seconds: float) -> RunEnded:
        return RunEnded(step=step, outcome=outcome, reason="", wall_s=sum(seconds.values()), seconds=seconds)

    return build
