"""What a start settles before the first step: sizes that are left open, and everything that can be checked by then."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from dist_seg.capacity.fit import data_facts, fill_from, fit_sizes, fit_steps
from dist_seg.capacity.measure import Measured, measure
from dist_seg.capacity.show import show_plan
from dist_seg.config.load import config_from_tree, to_tree, to_yaml
from dist_seg.config.schema import Config
from dist_seg.data.loading.loader import choose_loader, train_batches
from dist_seg.data.plan.training_plan import training_plan
from dist_seg.data.shards.bad_shards import check_bad_shards, find_bad_shards, unusable
from dist_seg.data.shards.manifest import Manifest
from dist_seg.data.view.open import open_run_data
from dist_seg.data.view.pixel_values import check_jitter, fit_pixels
from dist_seg.distributed.collectives import on_main
from dist_seg.distributed.world import World
from dist_seg.engine.run import check_lanes
from dist_seg.engine.start import find_checkpoint
from dist_seg.errors import ConfigError, DataError
from dist_seg.models.norm import NormKind, check_norm
from dist_seg.runs.folder import RunFolder, check_same_run, run_dir_of
from dist_seg.storage.object_store import Storage
from dist_seg.tasks.build import build_task
from dist_seg.tasks.classes import class_info
from dist_seg.telemetry.build import check_sinks
from dist_seg.training.start_classes import in_order_of_start, start_classes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The command line of `train`."""

    files: Sequence[Path]
    overrides: Sequence[str]
    print_config: bool
    dry_run: bool
    fresh: bool
    resume_with_changes: bool


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that was settled before the first step, equal on every rank."""

    config: Config
    folder: RunFolder
    storage: Storage
    manifest: Manifest
    bad_shards: Mapping[str, str]
    """Of the shards that are not to be read, the reasons by name."""


def prepare(config: Config, options: TrainOptions, world: World, num_threads: int) -> Prepared:
    """Fits what is left open and checks all that can be checked; with `--fresh` the old run is moved aside. A
    collective; raises UserError for what cannot be trained.
    """
    data = open_run_data(config.data)
    storage, manifest = data.storage, data.manifest
    if config.task not in ("auto", manifest.task):
        raise ConfigError(f"{storage.url} is packed for the task {manifest.task!r}, but task={config.task}")
    config = dataclasses.replace(config, task=cast(Literal["semantic", "multilabel", "instance"], manifest.task))
    folder = RunFolder(path=run_dir_of(config), checkpoint_dir=config.checkpoint.dir)
    # Not again when the launcher restarts the ranks: what lies there then is the run itself.
    options = dataclasses.replace(options, fresh=options.fresh and not world.restarts)
    names = cast(list[str] | None, on_main(lambda: start_classes(config, folder, fresh=options.fresh)))
    if names is not None:
        manifest = in_order_of_start(manifest, tuple(names), log=world.is_main)

    def settle() -> dict[str, object]:
        settled, bad_shards = _settle(config, options, folder, storage, manifest, world, num_threads)
        if options.fresh and not (options.dry_run or options.print_config):
            aside = folder.move_aside()
            if aside is not None:
                _log.info("the old run was moved to %s", aside)
            elsewhere = _set_aside(folder) if config.checkpoint.dir else []
            if elsewhere:
                _log.info("%s: checkpoints of steps %s were set aside", config.checkpoint.dir, elsewhere)
        return {"config": to_tree(settled), "bad_shards": bad_shards}

    found = cast(dict[str, dict[str, object]], on_main(settle))
    return Prepared(
        config=config_from_tree(found["config"], "rank 0"),
        folder=folder,
        storage=storage,
        manifest=manifest,
        bad_shards=cast(dict[str, str], found["bad_shards"]),
    )


def _set_aside(folder: RunFolder) -> list[int]:
    """The steps of checkpoints that made room for a new run's."""
    with folder.locked():
        return folder.checkpoints.begin_at(0)


def _settle(
    config: Config,
    options: TrainOptions,
    folder: RunFolder,
    storage: Storage,
    manifest: Manifest,
    world: World,
    num_threads: int,
) -> tuple[Config, dict[str, str]]:
    """Fits what is left open, checks everything that can be checked before the first step, and shows both.

    Returns the configuration and the shards that are not to be read.
    """
    stored = None if options.fresh or not folder.checkpoints.steps() else folder.stored_config()
    if stored is not None:
        config = fill_from(config, stored)
    bad_shards = _check_shards(config, storage, manifest)
    check_jitter(config.augment, manifest)
    config = dataclasses.replace(config, data=fit_pixels(config.data, manifest))
    facts = data_facts(storage, manifest, config.data.train_split, bad_shards)
    config = fit_sizes(config, facts, world)
    if not options.fresh and not options.resume_with_changes:
        check_same_run(folder, config, manifest.hash)
    check_lanes(config, training_plan(config.data, config.train, manifest), world.size)
    check_norm(cast(NormKind, config.model.norm))
    build_task(config, class_info(manifest)).metric()  # The user's own metrics: not only after hours of training.
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, loader=choose_loader(config)))
    if options.dry_run:
        _check_start(config, folder, storage, manifest, world, bad_shards)
    if config.train.max_steps is None or options.dry_run or _is_fitted(options):
        measured = measure(config, manifest, world)
        config = fit_steps(config, facts, world, measured)
        if not options.print_config:
            show_plan(config, facts, world, measured, manifest, num_threads)
    else:
        config = fit_steps(config, facts, world, _NOTHING_MEASURED)
        _log.info("encoder weights: %s; loader: %s", config.model.weights or "random", config.data.loader)
    if options.print_config:
        print(to_yaml(config), end="")
    return config, bad_shards


def _check_validation(config: Config, storage: Storage, manifest: Manifest) -> None:
    name = config.data.scored_split
    if name not in manifest.splits or not manifest.splits[name].num_samples:
        others = ", ".join(other for other, split in manifest.splits.items() if split.num_samples)
        raise DataError(
            f"{storage.url}: has no samples of split {name!r} to evaluate on; it has {others}. Pack with a share for "
            "validation (such as --val 0.1), hold out a part of the training split (data.folds=10 data.fold=0), or "
            "name another split: data.val_split=train scores what was trained on"
        )


def _check_shards(config: Config, storage: Storage, manifest: Manifest) -> dict[str, str]:
    """Every shard that will be read is there with its index, as long as the manifest says.

    Returns those that are not, with the reasons, where the configuration allows them; contents are checked when they
    are read.
    """
    _check_validation(config, storage, manifest)
    train, val = manifest.split(config.data.train_split).shards, manifest.split(config.data.scored_split).shards
    bad = find_bad_shards(storage, {shard.name: shard for shard in (*train, *val)}.values())
    of_val = {shard.name: bad[shard.name] for shard in val if shard.name in bad}
    check_bad_shards(
        {shard.name: bad[shard.name] for shard in train if shard.name in bad},
        config.data.max_bad_shards,
        len(train),
        storage.url,
    )
    if of_val and not config.eval.allow_bad_samples:
        remedy = "or leave its samples out of the score with eval.allow_bad_samples=true"
        raise unusable(of_val, storage.url, "evaluation", remedy)
    for name, reason in bad.items():
        _log.warning("shard %s cannot be used and is left out: %s", name, reason)
    return bad


def _check_start(
    config: Config,
    folder: RunFolder,
    storage: Storage,
    manifest: Manifest,
    world: World,
    bad_shards: Mapping[str, str],
) -> None:
    """What a start would find out after the checks of every start: outputs, checkpoint, a first micro-batch."""
    folder.check_writable()
    check_sinks(config.telemetry)
    find_checkpoint(config, folder.checkpoints, restarted=False)
    plan = training_plan(config.data, config.train, manifest)
    batches = train_batches(config, manifest, storage, plan, [(0, 0)], world.device, 0, bad_shards)
    bad = next(batches).bad
    batches.close()
    for sample in bad:
        _log.warning("sample %s of %s cannot be decoded: %s", sample.key, sample.shard, sample.reason)


_NOTHING_MEASURED = Measured(seconds=0.0, parameter_bytes=0, process_bytes=0, activation_bytes=0)


def _is_fitted(options: TrainOptions) -> bool:
    """Without a file of settings the user has not seen what will be trained, nor how long."""
    return not options.files
