"""From a resolved configuration to a training run: everything is made here and handed to the loop."""

import dataclasses
import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from dist_seg.checkpoint.state import TrainingState
from dist_seg.checkpoint.store import CheckpointStore, Retention, load_checkpoint
from dist_seg.checkpoint.writer import CheckpointWriter
from dist_seg.config.schema import Config
from dist_seg.data.batch import Batch
from dist_seg.data.loader import train_batches
from dist_seg.data.manifest import Manifest
from dist_seg.data.plan import TrainPlan
from dist_seg.engine.ddp import DdpStrategy
from dist_seg.engine.ema import ExponentialMovingAverage
from dist_seg.engine.evaluator import evaluate
from dist_seg.engine.optim import build_optimizer
from dist_seg.engine.run_folder import RunFolder
from dist_seg.engine.statistics import RunningStatistics
from dist_seg.engine.stop import StopSignal
from dist_seg.engine.trainer import Progress, Trainer
from dist_seg.errors import CheckpointError, ConfigError
from dist_seg.runtime.precision import autocast, dtype_of, resolve_precision
from dist_seg.runtime.storage import Storage
from dist_seg.runtime.streams import seed_of
from dist_seg.runtime.world import World
from dist_seg.tasks.build import build_task
from dist_seg.tasks.task import ClassInfo, EvalResult
from dist_seg.telemetry.events import CheckpointSaved, Event, RunStarted

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """How a run, or this process's part of it, ended."""

    complete: bool
    step: int
    result: EvalResult | None
    """Of the final weights; None where the run was stopped before."""


def make_deterministic(config: Config, device: torch.device) -> None:
    """Holds torch to bit-exact kernels where the configuration wants it: by default on the CPU, not on a GPU."""
    wanted = config.train.deterministic
    if wanted is None:
        wanted = device.type == "cpu"
    torch.use_deterministic_algorithms(wanted, warn_only=device.type == "cuda")
    # The promise is about kernels; filling fresh memory as well would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module's class
    torch.backends.cudnn.benchmark = not wanted


def build_plan(config: Config, manifest: Manifest) -> TrainPlan:
    """The plan of the training split. `train.global_batch` and `train.micro_batch` must be set."""
    train = config.train
    assert train.global_batch is not None and train.micro_batch is not None
    return TrainPlan(
        [shard.samples for shard in manifest.split(config.data.train_split).shards],
        seed=train.seed,
        global_batch=train.global_batch,
        micro_batch=train.micro_batch,
        shuffle_window=config.data.shuffle_window,
    )


def class_info(manifest: Manifest) -> ClassInfo:
    return ClassInfo(names=manifest.class_names, palette=manifest.palette, ignore_index=manifest.ignore_index)


def manifest_meta(manifest: Manifest) -> dict[str, object]:
    """What a checkpoint keeps of the training data's manifest."""
    return {
        "hash": manifest.hash,
        "task": manifest.task,
        "class_names": list(manifest.class_names),
        "palette": [list(color) for color in manifest.palette],
        "ignore_index": manifest.ignore_index,
    }


def find_resume_state(config: Config, checkpoints: CheckpointStore) -> TrainingState | None:
    """What `checkpoint.resume` asks to start from. Raises CheckpointError where a named checkpoint is not whole."""
    match config.checkpoint.resume:
        case "auto":
            return checkpoints.newest_whole()
        case "none":
            return None
        case path:
            return load_checkpoint(Path(path))


def run_training(
    config: Config,
    *,
    world: World,
    folder: RunFolder,
    storage: Storage,
    manifest: Manifest,
    num_threads: int,
    emit: Callable[[Event], None],
    stop: StopSignal,
    on_eval_images: Callable[[int], None],
    process_started: float,
) -> TrainingOutcome:
    """Trains on every rank until the end or a stop signal. A collective.

    process_started: `time.time()` at which this process began, for the account of the start-up.
    """
    make_deterministic(config, world.device)
    plan = build_plan(config, manifest)
    if world.size > plan.lanes:
        raise ConfigError(
            f"{world.size} ranks, but train.global_batch / train.micro_batch gives {plan.lanes} lanes: every rank "
            f"needs one. Start at most {plan.lanes} ranks, or lower train.micro_batch"
        )
    task = build_task(config, class_info(manifest), manifest.split(config.data.train_split).class_pixels)
    precision = resolve_precision(config.train.precision, world.device)
    torch.manual_seed(seed_of("model", config.train.seed))
    model = task.build_model().to(world.device, dtype_of(precision))
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model.train()
    strategy = DdpStrategy(
        model,
        build_optimizer(config.optim, model),
        world=world,
        lanes=plan.lanes,
        clip_norm=config.optim.clip_norm,
        compile=config.train.compile,
    )
    statistics = RunningStatistics(model, config.model.norm_momentum)
    statistics.begin_step()
    blank = task.blank_batch(world.device)
    with autocast(precision, world.device):
        strategy.warm_up(
            lambda forward: task.losses(lambda images: forward(images.to(dtype_of(precision))), blank)["loss"]
        )
    statistics.end_step(plan.lanes, skipped=True)
    ema = ExponentialMovingAverage(model, config.train.ema_decay) if config.train.ema_decay else None

    progress = Progress()
    state = find_resume_state(config, folder.checkpoints)
    if state is not None:
        _load_state(state, model, strategy, ema)
        progress = Progress(
            step=state.meta.step,
            bad_samples=dict(state.meta.bad_samples),
            nonfinite_in_a_row=state.meta.nonfinite_in_a_row,
        )
    writer = _build_writer(config, folder.checkpoints, emit) if world.is_main else None

    def batches_of(units: Iterable[tuple[int, int]]) -> Iterator[Batch]:
        return train_batches(config, manifest, storage, plan, units, world.device, num_threads)

    trainer = Trainer(
        config=config,
        world=world,
        task=task,
        strategy=strategy,
        statistics=statistics,
        ema=ema,
        plan=plan,
        batches_of=batches_of,
        evaluate=lambda model: evaluate(
            model,
            task=task,
            config=config,
            storage=storage,
            manifest=manifest,
            split=config.data.val_split,
            world=world,
            num_threads=num_threads,
            on_images=on_eval_images,
            stop_requested=lambda: stop.requested,
        ),
        scored_steps=folder.checkpoints.scores() if progress.step else {},
        writer=writer,
        manifest_meta=manifest_meta(manifest),
        emit=emit,
        stop=stop,
        progress=progress,
    )
    assert config.train.max_steps is not None
    emit(
        RunStarted(
            step=progress.step,
            max_steps=config.train.max_steps,
            steps_per_epoch=plan.steps_per_epoch,
            world_size=world.size,
            global_batch=plan.global_batch,
            micro_batch=plan.micro_batch,
            device=str(world.device),
            class_names=manifest.class_names,
            manifest_hash=manifest.hash,
            versions={"python": platform.python_version(), "torch": torch.__version__},
            startup_s=time.time() - process_started,
        )
    )
    try:
        complete = trainer.run()
    finally:
        if writer is not None:
            writer.close()
    return TrainingOutcome(complete=complete, step=progress.step, result=trainer.last_result if complete else None)


def _build_writer(config: Config, store: CheckpointStore, emit: Callable[[Event], None]) -> CheckpointWriter:
    kept = config.checkpoint
    return CheckpointWriter(
        store,
        Retention(keep_last=kept.keep_last, keep_best=kept.keep_best, keep_every_steps=kept.keep_every_steps),
        on_saved=lambda step, path, stall_s, write_s: emit(
            CheckpointSaved(step=step, path=str(path), stall_s=stall_s, write_s=write_s)
        ),
    )


def _load_state(
    state: TrainingState,
    model: torch.nn.Module,
    strategy: DdpStrategy,
    ema: ExponentialMovingAverage | None,
) -> None:
    try:
        model.load_state_dict(dict(state.model))
        strategy.load_optimizer_state(state.optimizer)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"the checkpoint of step {state.meta.step} does not fit the model: {error}") from error
    if ema is not None:
        ema.load(state.ema or state.model)
