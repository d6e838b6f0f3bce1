"""Measures the cost of a training micro-batch on this machine."""

import time
from dataclasses import dataclass

import torch

from dist_seg.config.schema import Config
from dist_seg.data.view.data_view import DataView
from dist_seg.distributed.world import World
from dist_seg.errors import ConfigError
from dist_seg.runtime.machine import peak_memory
from dist_seg.runtime.precision import autocast, dtype_of, resolve_precision
from dist_seg.runtime.rng import seed_of
from dist_seg.tasks.build import build_model, build_task, for_one_process
from dist_seg.tasks.classes import class_info
from dist_seg.tasks.task import ModelOutput


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The cost of a training micro-batch on this machine."""

    seconds: float
    parameter_bytes: int
    process_bytes: int
    """Peak memory of this process before: the interpreter, its libraries and the data's sidecars."""
    activation_bytes: int
    """Tensors kept for the backward pass; on a GPU, the peak of allocated memory beyond the parameters."""
    target_bytes: int = 8
    """Target bytes per pixel."""


def measure(config: Config, view: DataView, world: World) -> Measured:
    """Trains on a blank micro-batch three times and takes the fastest.

    Raises ConfigError for a micro-batch that does not fit into the GPU's memory.
    """
    try:
        return _measure(config, view, world)
    except torch.OutOfMemoryError as error:
        train, augment = config.train, config.augment
        raise ConfigError(
            f"train.micro_batch={train.micro_batch} crops of {augment.crop_width}x{augment.crop_height} do not fit "
            f"into the memory of {world.device}: lower train.micro_batch (train.global_batch may stay), or "
            f"augment.crop_height and augment.crop_width ({str(error).splitlines()[0]})"
        ) from error


def _measure(config: Config, view: DataView, world: World) -> Measured:
    # One rank measures while the others wait: synchronised batch norm would wait for them in turn.
    config = for_one_process(config)
    task = build_task(config, class_info(view), view.split(config.data.train_split).class_pixels)
    precision = resolve_precision(config.train.precision, world.device)
    process_bytes = peak_memory()
    before = 0
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(world.device)
        before = torch.cuda.memory_allocated(world.device)
    torch.manual_seed(seed_of("model", config.train.seed))
    model = build_model(task, config, world.device)
    parameters = list(model.parameters())
    batch = task.blank_batch(world.device)
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def forward(images: torch.Tensor, *more: object) -> ModelOutput:
        output: ModelOutput = model(images.to(dtype_of(precision)), *more)
        return output

    seconds = []
    for attempt in range(3):
        begin = time.perf_counter()
        with autocast(precision, world.device):
            if attempt == 0:
                with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                    loss = task.losses(forward, batch)["loss"]
            else:
                loss = task.losses(forward, batch)["loss"]
        torch.autograd.backward(loss)
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    for parameter in parameters:
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    parameter_bytes = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    activation_bytes = sum(kept.values())
    if world.device.type == "cuda":  # The allocator also counts workspaces of kernels. Gradients are counted apart.
        activation_bytes = max(0, torch.cuda.max_memory_allocated(world.device) - before - 2 * parameter_bytes)
    return Measured(
        seconds=min(seconds),
        parameter_bytes=parameter_bytes,
        process_bytes=process_bytes,
        activation_bytes=activation_bytes,
        target_bytes=batch.targets.nbytes // batch.images[:, 0].numel(),
    )


def seconds_per_step(config: Config, world: World, measured: Measured) -> float:
    """Seconds of a step on the rank with the most micro-batches, without waiting for data."""
    train = config.train
    assert train.global_batch is not None and train.micro_batch is not None
    lanes = train.global_batch // train.micro_batch
    return measured.seconds * -(-lanes // world.size)
