"""What the distributed tests train: small networks, for a few steps, on the synthetic shards."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.config.load import load_config
from dist_seg.config.schema import Config, ModelConfig
from dist_seg.data.view.open import open_view
from dist_seg.distributed.collectives import raise_if_any
from dist_seg.distributed.world import World
from dist_seg.engine.run import TrainingOutcome, run_training
from dist_seg.engine.stop import StopSignal
from dist_seg.runs.folder import RunFolder
from dist_seg.runtime.startup import StartUp
from dist_seg.telemetry.events import Event, StepDone
from dist_seg.telemetry.jsonl import JsonLinesSink, read_events

SMALL = [
    "task=semantic",
    "model.name=tests.distributed.training:small_net",
    "model.weights=null",
    "data.loader=torch",
    "data.num_threads=0",
    "data.input_scale=1.0",
    "augment.crop_height=32",
    "augment.crop_width=32",
    "augment.rotate_deg=10",
    "augment.brightness=0.2",
    "train.global_batch=16",
    "train.micro_batch=2",
    "train.max_steps=5",
    "train.eval_interval_steps=0",
    "checkpoint.interval_steps=100",
    "eval.bootstrap_samples=20",
    "telemetry.prometheus_port=-1",
    "telemetry.digest_interval_steps=1",
]

DETECTOR = [
    "task=instance",
    "model.name=mask_rcnn",
    "model.encoder=mobilenetv3_small_050",
    "model.norm=batch",
    "mask_rcnn.head_norm=group",
    "mask_rcnn.fpn_channels=16",
    "mask_rcnn.box_channels=32",
    "mask_rcnn.mask_channels=16",
    "mask_rcnn.mask_convs=1",
    "mask_rcnn.anchor_sizes=[8, 16, 32, 64, 128]",
    "mask_rcnn.rpn_pre_nms_train=100",
    "mask_rcnn.rpn_post_nms_train=50",
    "mask_rcnn.rpn_pre_nms_eval=50",
    "mask_rcnn.rpn_post_nms_eval=50",
    "mask_rcnn.rpn_samples=32",
    "mask_rcnn.roi_samples=32",
    "mask_rcnn.mask_samples=4",
    "mask_rcnn.detections_per_image=20",
    "augment.crop_height=64",
    "augment.crop_width=64",
]
"""On top of `SMALL`, a Mask R-CNN that draws fewer anchors, regions and masks than there are to draw from."""

# Plain SGD at full rate: Adam's division would hide a wrong factor of the gradient, a warm-up a wrong first step.
EXACT = [
    "train.precision=fp64",
    "optim.name=sgd",
    "optim.lr=0.5",
    "optim.momentum=0",
    "optim.weight_decay=0",
    "optim.schedule=constant",
    "optim.warmup_fraction=0",
    "optim.clip_norm=0.3",
    "train.ema_decay=0.9",
]


class SmallNet(nn.Module):
    """Batch norm, dropout, and enough parameters for gradients to be summed in a different order."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout(0.2)
        )
        self.head = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.classify = nn.Conv2d(12, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classify(self.head(self.encoder(images)))


def small_net(config: ModelConfig, num_classes: int) -> nn.Module:
    return SmallNet(num_classes)


def small_config(shards: str, run_dir: str, overrides: Sequence[str]) -> Config:
    return load_config([], [*SMALL, f"data.shards={shards}", f"run.dir={run_dir}", *overrides])


def train_on(
    world: World,
    shards: str,
    run_dir: str,
    overrides: Sequence[str] = (),
    on_event: Callable[[Event, StopSignal], None] = lambda event, stop: None,
) -> TrainingOutcome:
    """Trains `small_config` on this rank, with the log as its only sink."""
    config = small_config(shards, run_dir, overrides)
    folder = RunFolder(path=Path(run_dir), checkpoint_dir=config.checkpoint.dir)
    folder.path.mkdir(parents=True, exist_ok=True)
    data = open_view(config.data)
    log = JsonLinesSink(folder.path, rank=world.rank)
    stop = StopSignal()

    def emit(event: Event) -> None:
        log.emit(event)
        on_event(event, stop)

    try:
        outcome = run_training(
            config,
            world=world,
            folder=folder,
            view=data,
            emit=emit,
            stop=stop,
            startup=StartUp(),
        )
        raise_if_any(outcome.unsaved)  # As the command does, once the result is written.
        return outcome
    finally:
        log.close()


def losses(run: Path) -> list[float]:
    """Of every step."""
    return [record.event.loss for record in read_events(run) if isinstance(record.event, StepDone)]


def state_at(run: Path, step: int) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by part and name."""
    folder = CheckpointStore(run / "checkpoints").path(step)
    return {
        f"{part}/{key}": tensor
        for part in ("model", "ema", "optimizer")
        for key, tensor in load_file(f"{folder}/{part}.safetensors").items()
    }


def assert_close_states(run_a: Path, run_b: Path, step: int) -> None:
    """Equal to 1e-9 relative."""
    state_a, state_b = state_at(run_a, step), state_at(run_b, step)
    assert state_a.keys() == state_b.keys()
    for key, tensor in state_a.items():
        torch.testing.assert_close(state_b[key], tensor, rtol=1e-9, atol=1e-12, msg=f"{key}, step {step}")


def assert_equal_bits(run_a: Path, run_b: Path, step: int) -> None:
    state_a, state_b = state_at(run_a, step), state_at(run_b, step)
    assert state_a.keys() == state_b.keys()
    assert [key for key in state_a if not torch.equal(state_a[key], state_b[key])] == []
