"""What the distributed tests train: a small network, for a few steps, on the synthetic shards."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from dist_seg.config.load import load_config
from dist_seg.config.schema import Config, ModelConfig
from dist_seg.data.manifest import load_manifest
from dist_seg.engine.run import TrainingOutcome, run_training
from dist_seg.engine.run_folder import RunFolder
from dist_seg.engine.stop import StopSignal
from dist_seg.runtime.storage import open_storage
from dist_seg.runtime.world import World
from dist_seg.telemetry.events import Event
from dist_seg.telemetry.jsonl import JsonLinesSink

SMALL = [
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
    folder = RunFolder(path=Path(run_dir))
    folder.path.mkdir(parents=True, exist_ok=True)
    storage = open_storage(shards)
    log = JsonLinesSink(folder.path, rank=world.rank)
    stop = StopSignal()

    def emit(event: Event) -> None:
        log.emit(event)
        on_event(event, stop)

    try:
        return run_training(
            config,
            world=world,
            folder=folder,
            storage=storage,
            manifest=load_manifest(storage),
            num_threads=0,
            emit=emit,
            stop=stop,
            process_started=0.0,
        )
    finally:
        log.close()
