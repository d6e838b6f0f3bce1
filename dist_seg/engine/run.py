"""Runs a training from a resolved configuration: builds all parts of the loop and starts it."""

import dataclasses
import platform
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import cast

import torch
from torch import nn

from dist_seg.checkpoint.store import CheckpointStore, Retention
from dist_seg.checkpoint.writer import CheckpointWriter
from dist_seg.config.schema import Config, EngineConfig
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.loader import loader_version, train_batches
from dist_seg.data.plan.plan import Plan
from dist_seg.data.plan.training_plan import training_plan
from dist_seg.data.view.data_view import DataView
from dist_seg.distributed.collectives import on_main
from dist_seg.distributed.position import HERE
from dist_seg.distributed.world import World
from dist_seg.engine.bad_data import BadDataRecord
from dist_seg.engine.evaluator import evaluate
from dist_seg.engine.out_of_memory import memory_explained
from dist_seg.engine.run_progress import Progress
from dist_seg.engine.saver import Saver
from dist_seg.engine.scorer import Scorer
from dist_seg.engine.start import claim, shard_samples, started
from dist_seg.engine.stop import StopSignal
from dist_seg.engine.trainer import Feed, Trainer
from dist_seg.errors import CheckpointError, ConfigError
from dist_seg.runs.folder import RunFolder
from dist_seg.runtime.plural import count_of
from dist_seg.runtime.precision import make_deterministic
from dist_seg.runtime.startup import StartUp
from dist_seg.tasks.classes import manifest_meta
from dist_seg.tasks.task import EvalResult, Task
from dist_seg.telemetry.events import CheckpointFailed, CheckpointSaved, Event, RunStarted


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """How a run, or the part of it in this process, ended."""

    complete: bool
    step: int
    result: EvalResult | None
    """Result of the final weights; None if the run was stopped earlier."""
    unsaved: CheckpointError | None = None
    """Why the last step is in no checkpoint, if it is in none; only on rank 0. Raise it once the result is written."""


def check_lanes(config: Config, plan: Plan, world_size: int) -> None:
    """Raises ConfigError if the ranks cannot share the micro-batches of a step."""
    if world_size > plan.lanes:
        raise ConfigError(
            f"{count_of(world_size, 'rank')}, but a step has {count_of(plan.lanes, 'micro-batch')} "
            "(train.global_batch / train.micro_batch) and every rank needs one. Start at most "
            f"{count_of(plan.lanes, 'rank')}, or lower train.micro_batch"
        )
    if config.model.norm == "sync" and plan.lanes % world_size:
        raise ConfigError(
            f"model.norm=sync needs the same number of micro-batches on every rank: {plan.lanes} micro-batches do not "
            f"divide among {world_size} ranks"
        )


def engine_name(engine: EngineConfig) -> str:
    """The engine as logs and reports show it."""
    return engine.name if engine.name == "ddp" else f"{engine.name}, ZeRO-{engine.zero_stage}"


def run_training(
    config: Config,
    *,
    world: World,
    folder: RunFolder,
    view: DataView,
    emit: Callable[[Event], None],
    stop: StopSignal,
    startup: StartUp,
) -> TrainingOutcome:
    """Trains on every rank until the end or a stop signal. A collective.

    view: equal on every rank.
    """
    startup.done("outputs")
    make_deterministic(config, world.device)
    plan = training_plan(config.data, config.train, view)
    trainee, saved_step = started(config, world, folder, view, plan, startup)
    progress = trainee.progress
    scored_steps = cast(list[int], on_main(lambda: claim(folder, config, progress.step)))
    writer = _build_writer(config, folder.checkpoints, emit, saved_step)
    saver = Saver(
        config=config,
        world=world,
        trainee=trainee,
        writer=writer if world.is_main else None,
        manifest_meta=manifest_meta(view),
        emit=emit,
    )
    scorer = Scorer(
        config=config,
        trainee=trainee,
        evaluate=_evaluation(config, view, world, trainee.task, stop),
        scored_steps=scored_steps,
        saver=saver,
        emit=emit,
    )
    trainer = Trainer(
        config=config,
        world=world,
        trainee=trainee,
        feed=_feed(config, view, plan, world, progress, emit),
        scorer=scorer,
        saver=saver,
        emit=emit,
        stop=stop,
    )
    startup.done("other")
    emit(_run_started(config, world, view, plan, progress.step, startup))
    try:
        with memory_explained(config, world, lambda: HERE.description):
            complete = trainer.run()
    finally:
        writer.close()
    return TrainingOutcome(
        complete=complete,
        step=progress.step,
        result=scorer.last_result if complete else None,
        unsaved=saver.unsaved,
    )


def _evaluation(
    config: Config, view: DataView, world: World, task: Task, stop: StopSignal
) -> Callable[[nn.Module], EvalResult | None]:
    """The function that scores a model on the scored split."""

    def score(model: nn.Module) -> EvalResult | None:
        return evaluate(
            model,
            task=task,
            config=config,
            view=view,
            split=config.data.scored_split,
            world=world,
            stop_requested=lambda: stop.requested,
        )

    return score


def _feed(
    config: Config, view: DataView, plan: Plan, world: World, progress: Progress, emit: Callable[[Event], None]
) -> Feed:
    def batches_of(units: Iterable[tuple[int, int]], bad: Mapping[str, str]) -> Generator[Batch, None, None]:
        return train_batches(config, dataclasses.replace(view, bad_shards=bad), plan, units, world.device)

    bad_data = BadDataRecord(
        data=config.data, shard_samples=shard_samples(config, view), world=world, progress=progress, emit=emit
    )
    return Feed(plan=plan, batches_of=batches_of, bad_data=bad_data)


def _run_started(config: Config, world: World, view: DataView, plan: Plan, step: int, startup: StartUp) -> RunStarted:
    assert config.train.max_steps is not None
    return RunStarted(
        step=step,
        max_steps=config.train.max_steps,
        steps_per_epoch=plan.steps_per_epoch,
        world_size=world.size,
        global_batch=plan.global_batch,
        micro_batch=plan.micro_batch,
        device=str(world.device),
        class_names=view.class_names,
        manifest_hash=view.hash,
        versions={"python": platform.python_version(), "torch": torch.__version__, **loader_version(config)},
        startup_s=sum(startup.seconds.values()),
        startup=startup.seconds,
        engine=engine_name(config.engine),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SaveEvents:
    """Turns the outcome of saves into events."""

    emit: Callable[[Event], None]
    engine: str

    def saved(self, step: int, path: str, stall_s: float, write_s: float) -> None:
        self.emit(CheckpointSaved(step=step, path=path, stall_s=stall_s, write_s=write_s, engine=self.engine))

    def failed(self, step: int, reason: str) -> None:
        self.emit(CheckpointFailed(step=step, reason=reason))


def _build_writer(
    config: Config, store: CheckpointStore, emit: Callable[[Event], None], last_step: int | None
) -> CheckpointWriter:
    kept = config.checkpoint
    retention = Retention(keep_last=kept.keep_last, keep_best=kept.keep_best, keep_every_steps=kept.keep_every_steps)
    events = _SaveEvents(emit=emit, engine=engine_name(config.engine))
    return CheckpointWriter(store, retention, events, last_step=last_step)
