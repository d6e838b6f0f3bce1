"""Prepares a training: chooses the settings that are left open and checks everything before the first step."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

from dist_seg.capacity.fit import DataFacts, data_facts, fill_from, fit_sizes, fit_steps
from dist_seg.capacity.measure import Measured, measure
from dist_seg.capacity.show import show_plan
from dist_seg.config.load import config_from_tree, to_tree, to_yaml
from dist_seg.config.schema import Config
from dist_seg.data.loading.loader import choose_loader, loader_threads, train_batches
from dist_seg.data.plan.training_plan import training_plan
from dist_seg.data.shards.bad_shards import check_bad_shards, find_bad_shards, unusable
from dist_seg.data.view.data_view import DataView
from dist_seg.data.view.open import open_view
from dist_seg.data.view.pixel_values import check_jitter, fit_pixels
from dist_seg.distributed.collectives import on_main
from dist_seg.distributed.world import World
from dist_seg.engine.evaluator import check_flip
from dist_seg.engine.run import check_lanes
from dist_seg.engine.start import find_checkpoint
from dist_seg.errors import ConfigError, DataError
from dist_seg.models.norm import NormKind, check_norm
from dist_seg.runs.folder import RunFolder, check_same_run, run_dir_of
from dist_seg.runtime.documents import convert
from dist_seg.tasks.build import build_task
from dist_seg.tasks.classes import class_info
from dist_seg.telemetry.build import check_sinks
from dist_seg.training.start_classes import in_order_of_start, start_classes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """How a training starts, beside its configuration."""

    fresh: bool = False
    """Begin a new run; an old one in the folder is moved aside."""
    resume_with_changes: bool = False
    """Resume although settings or data differ from those of the run."""
    print_config: bool = False
    """Only print the resolved configuration."""
    dry_run: bool = False
    """Only check everything that a start would meet, and estimate."""
    show_plan: bool = False
    """Measure and print the plan even if the number of steps is set."""

    @property
    def trains(self) -> bool:
        return not (self.print_config or self.dry_run)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that is known before the first step, equal on every rank."""

    config: Config
    folder: RunFolder
    view: DataView


@dataclass(frozen=True, kw_only=True)
class _Settled:
    """What rank 0 tells the others."""

    config: dict[str, object]
    bad_shards: dict[str, str]


def prepare(config: Config, options: StartOptions, world: World, cpu_threads: int) -> Prepared:
    """Chooses what is left open and checks all that can be checked; with `fresh` the old run is moved aside. A
    collective; raises UserError for what cannot be trained.

    cpu_threads: of this rank; see `set_threads`.
    """
    view = open_view(config.data)
    config = with_task(config, view)
    folder = RunFolder(path=run_dir_of(config), checkpoint_dir=config.checkpoint.dir)
    # Not after the launcher restarted the ranks: the folder then holds the run itself.
    options = replace(options, fresh=options.fresh and not world.restarts)
    names = cast(list[str] | None, on_main(lambda: start_classes(config, folder, fresh=options.fresh)))
    if names is not None:
        view = in_order_of_start(view, tuple(names), log=world.is_main)

    def settle() -> object:
        settled, bad_shards = _settle(config, options, folder, view, world, cpu_threads)
        if options.fresh and options.trains:
            _move_aside(folder)
        return {"config": to_tree(settled), "bad_shards": dict(bad_shards)}

    found = convert(on_main(settle), _Settled, "rank 0")
    config = config_from_tree(found.config, "rank 0")
    num_threads = loader_threads(config.data, cpu_threads)
    return Prepared(
        config=config, folder=folder, view=replace(view, bad_shards=found.bad_shards, num_threads=num_threads)
    )


def _move_aside(folder: RunFolder) -> None:
    """Makes room for a new run."""
    aside = folder.move_aside()
    if aside is not None:
        _log.info("the old run was moved to %s", aside)
    if folder.checkpoint_dir is None:
        return
    with folder.locked():
        elsewhere = folder.checkpoints.begin_at(0)
    if elsewhere:
        _log.info("%s: checkpoints of steps %s were set aside", folder.checkpoint_dir, elsewhere)


def _settle(
    config: Config, options: StartOptions, folder: RunFolder, view: DataView, world: World, cpu_threads: int
) -> tuple[Config, Mapping[str, str]]:
    """Chooses what is left open, checks everything that can be checked before the first step, and shows both.

    Returns the configuration and the shards that are not to be read.
    """
    stored = None if options.fresh or not folder.checkpoints.steps() else folder.stored_config()
    if stored is not None:
        config = fill_from(config, stored)
    _check_validation(config, view)
    view = without_bad_shards(config, view, scored=True)
    config, facts = fit_to_data(config, view, world)
    if not options.fresh and not options.resume_with_changes:
        check_same_run(folder, config, view.hash)
    check_lanes(config, training_plan(config.data, config.train, view), world.size)
    check_norm(cast(NormKind, config.model.norm))
    check_flip(config)
    build_task(config, class_info(view)).metric()  # The user's own metrics: not only after hours of training.
    config = replace(config, data=replace(config.data, loader=choose_loader(config)))
    if options.dry_run:
        _check_start(config, folder, view, world)
    if config.train.max_steps is None or options.dry_run or options.show_plan:
        measured = measure(config, view, world)
        config = fit_steps(config, facts, world, measured)
        if not options.print_config:
            show_plan(config, facts, world, measured, view, cpu_threads)
    else:
        config = fit_steps(config, facts, world, _NOTHING_MEASURED)
        _log.info("encoder weights: %s; loader: %s", config.model.weights or "random", config.data.loader)
    if options.print_config:
        print(to_yaml(config), end="")
    return config, view.bad_shards


def with_task(config: Config, view: DataView) -> Config:
    """The configuration with the data's task. Raises ConfigError if it asks for another one."""
    if config.task not in ("auto", view.task):
        raise ConfigError(f"{view.url} is packed for the task {view.task!r}, but task={config.task}")
    return replace(config, task=cast(Literal["semantic", "multilabel", "instance"], view.task))


def fit_to_data(config: Config, view: DataView, world: World) -> tuple[Config, DataFacts]:
    """The configuration with all settings chosen that depend on the data's images, and what was found of these."""
    check_jitter(config.augment, view)
    config = replace(config, data=fit_pixels(config.data, view))
    facts = data_facts(view, config.data.train_split)
    return fit_sizes(config, facts, world), facts


def _check_validation(config: Config, view: DataView) -> None:
    name = config.data.scored_split
    if name not in view.splits or not view.splits[name].num_samples:
        others = ", ".join(other for other, split in view.splits.items() if split.num_samples)
        raise DataError(
            f"{view.url}: has no samples of split {name!r} to evaluate on; it has {others}. Pack with a share for "
            "validation (such as --val 0.1), hold out a part of the training split (data.folds=10 data.fold=0), or "
            "name another split: data.val_split=train scores what was trained on"
        )


def without_bad_shards(config: Config, view: DataView, *, scored: bool) -> DataView:
    """The view with those training shards as `bad_shards` that are missing, of another length or without their index.
    Contents are checked when they are read.

    scored: look at the scored split, too. Raises DataError if the configuration does not allow to leave them out.
    """
    train = view.split(config.data.train_split).shards
    val = view.split(config.data.scored_split).shards if scored else ()
    bad = find_bad_shards(view.storage, {shard.name: shard for shard in (*train, *val)}.values())
    of_train = {shard.name: bad[shard.name] for shard in train if shard.name in bad}
    check_bad_shards(of_train, config.data.max_bad_shards, len(train), view.url)
    of_val = {shard.name: bad[shard.name] for shard in val if shard.name in bad}
    if of_val and not config.eval.allow_bad_samples:
        remedy = "or leave its samples out of the score with eval.allow_bad_samples=true"
        raise unusable(of_val, view.url, "evaluation", remedy)
    for name, reason in bad.items():
        _log.warning("shard %s cannot be used and is left out: %s", name, reason)
    return replace(view, bad_shards=bad)


def _check_start(config: Config, folder: RunFolder, view: DataView, world: World) -> None:
    """Checks what a start would only notice later: outputs, the checkpoint and a first micro-batch."""
    folder.check_writable()
    check_sinks(config.telemetry)
    find_checkpoint(config, folder.checkpoints, restarted=False)
    plan = training_plan(config.data, config.train, view)
    batches = train_batches(config, view, plan, [(0, 0)], world.device)
    bad = next(batches).bad
    batches.close()
    for sample in bad:
        _log.warning("sample %s of %s cannot be decoded: %s", sample.key, sample.shard, sample.reason)


_NOTHING_MEASURED = Measured(seconds=0.0, parameter_bytes=0, process_bytes=0, activation_bytes=0)
