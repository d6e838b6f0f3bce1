"""Builds a model in its engine from a configuration and, if there is one, a checkpoint."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from dist_seg.checkpoint.reading import checkpoint_exists, load_checkpoint
from dist_seg.checkpoint.state import TrainingState
from dist_seg.config.schema import Config
from dist_seg.data.view.data_view import DataView
from dist_seg.distributed.collectives import on_every_rank
from dist_seg.distributed.world import World
from dist_seg.engine.batch_norm_statistics import RunningStatistics
from dist_seg.engine.ema import ExponentialMovingAverage
from dist_seg.engine.optim import build_optimizer
from dist_seg.engine.run_progress import Progress
from dist_seg.engine.strategies.ddp import DdpStrategy
from dist_seg.engine.strategies.deepspeed import DeepSpeedStrategy
from dist_seg.engine.strategies.loss_scale import LossScale
from dist_seg.engine.strategies.strategy import Strategy, check_all_used
from dist_seg.errors import CheckpointError, ConfigError
from dist_seg.models.norm import resolve_norm
from dist_seg.runtime.precision import autocast, dtype_of, resolve_precision
from dist_seg.runtime.rng import seed_of
from dist_seg.runtime.startup import StartUp
from dist_seg.tasks.build import build_model, build_task
from dist_seg.tasks.classes import ClassInfo, class_info
from dist_seg.tasks.task import Forward, Task

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """The model being trained, with its task, engine and progress."""

    task: Task
    strategy: Strategy
    statistics: RunningStatistics
    ema: ExponentialMovingAverage | None
    progress: Progress


def build_trainee(
    config: Config, view: DataView, checkpoint: str | None, world: World, *, lanes: int, startup: StartUp
) -> Trainee:
    """The model at the state of the checkpoint, ready for the next step. A collective.

    Raises CheckpointError for a checkpoint that cannot be resumed, ConfigError for a model that cannot be trained.
    """
    if checkpoint is not None:  # It holds all weights, so a missing file of pretrained weights must not matter.
        norm = resolve_norm(config.model.norm, config.task, config.model.weights)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=None, norm=norm))
    classes = class_info(view)
    task = build_task(config, classes, view.split(config.data.train_split).class_pixels)
    model = on_every_rank(lambda: _initialised_model(config, task, world))
    startup.done("model")
    state = on_every_rank(lambda: _loaded(config, classes, checkpoint, model))
    startup.done("restore")
    statistics = RunningStatistics(model, config.model.norm_momentum)
    strategy = _build_strategy(config, task, model, statistics, world, lanes)
    startup.done("engine")
    ema = ExponentialMovingAverage(strategy.held(), config.train.ema_decay) if config.train.ema_decay else None
    progress = on_every_rank(lambda: _resumed(config, checkpoint, state, strategy, ema))
    startup.done("restore")
    return Trainee(task=task, strategy=strategy, statistics=statistics, ema=ema, progress=progress)


def _initialised_model(config: Config, task: Task, world: World) -> nn.Module:
    torch.manual_seed(seed_of("model", config.train.seed))
    return build_model(task, config, world.device)


def _build_strategy(
    config: Config, task: Task, model: nn.Module, statistics: RunningStatistics, world: World, lanes: int
) -> Strategy:
    """The engine around the model, after warm-up passes through the whole engine that change no state."""
    precision = resolve_precision(config.train.precision, world.device)
    blank = task.blank_batch(world.device)
    optimizer = build_optimizer(config.optim, model)

    def loss_of(forward: Forward) -> torch.Tensor:
        with autocast(precision, world.device):
            return task.losses(lambda images, *more: forward(images.to(dtype_of(precision)), *more), blank)["loss"]

    statistics.begin_step()
    match config.engine.name:
        case "ddp":
            ddp = DdpStrategy(
                model,
                optimizer,
                world=world,
                lanes=lanes,
                clip_norm=config.optim.clip_norm,
                compile=config.train.compile,
                loss_scale=LossScale.starting(dynamic=precision == "fp16"),
            )
            ddp.warm_up(loss_of)
            strategy: Strategy = ddp
        case "deepspeed":
            torch.autograd.backward(loss_of(model))
            check_all_used(model)
            optimizer.zero_grad(set_to_none=True)
            strategy = DeepSpeedStrategy(
                model,
                optimizer,
                config=config,
                world=world,
                lanes=lanes,
                blank_model=lambda: _initialised_model(config, task, world),
            )
    statistics.end_step(lanes, skipped=True)
    return strategy


def _loaded(config: Config, classes: ClassInfo, checkpoint: str | None, model: nn.Module) -> TrainingState | None:
    """The checkpoint to start from, with its weights loaded into the model; None if there is none."""
    if checkpoint is None:
        return None
    if not checkpoint_exists(checkpoint):
        raise CheckpointError(
            f"{checkpoint}: rank 0 sees this checkpoint, others do not; run.dir or checkpoint.dir must lie on "
            "shared storage"
        )
    state = load_checkpoint(checkpoint)
    assert config.train.max_steps is not None
    if state.meta.step > config.train.max_steps:
        raise ConfigError(
            f"{checkpoint} is at step {state.meta.step}, beyond train.max_steps={config.train.max_steps}; raise it, or "
            "start from an earlier checkpoint with checkpoint.resume=PATH"
        )
    names = cast(Sequence[str], state.meta.manifest.get("class_names", classes.names))
    if len(names) != len(classes.names):
        raise ConfigError(
            f"{checkpoint}: its weights are for {len(names)} classes ({', '.join(names)}), the data has "
            f"{len(classes.names)} ({', '.join(classes.names)}); map the data's classes to these with data.class_map, "
            "or start from the encoder's weights only (model.weights)"
        )
    try:
        model.load_state_dict(dict(state.model))
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint} does not fit the model: {error}") from error
    return state


def _resumed(
    config: Config,
    checkpoint: str | None,
    state: TrainingState | None,
    strategy: Strategy,
    ema: ExponentialMovingAverage | None,
) -> Progress:
    """Loads the rest of a checkpoint and returns the progress of the run."""
    if checkpoint is None or state is None:
        return Progress()
    optimizer = cast(Mapping[str, object], state.meta.config["optim"])["name"]
    if optimizer == config.optim.name:
        try:
            strategy.load_optimizer_state(state.optimizer)
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(f"{checkpoint} does not fit the model: {error}") from error
    else:
        _log.warning("optim.name was %s and is %s: its moments start from zero", optimizer, config.optim.name)
    if ema is not None:
        ema.load({name: strategy.part(name, tensor) for name, tensor in {**state.model, **state.ema}.items()})
    if strategy.loss_scale.dynamic and state.meta.loss_scale != 1:
        strategy.loss_scale.value = state.meta.loss_scale
        strategy.loss_scale.good_steps = state.meta.loss_scale_good_steps
    return Progress(
        step=state.meta.step,
        bad_samples=dict(state.meta.bad_samples),
        bad_shards=dict(state.meta.bad_shards),
        nonfinite_in_a_row=state.meta.nonfinite_in_a_row,
        origin=state.meta.origin,
    )
