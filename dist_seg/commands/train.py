"""`dist-seg train`: from configuration files and overrides to a trained, scored and reported run."""

import dataclasses
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from dist_seg import capacity
from dist_seg.commands.evaluate import summary_line
from dist_seg.commands.launch import run_dir_of
from dist_seg.config.load import config_from_tree, load_config, to_tree, to_yaml
from dist_seg.config.schema import Config
from dist_seg.data.bad_shards import check_bad_shards, find_bad_shards, unusable
from dist_seg.data.loader import choose_loader, train_batches
from dist_seg.data.manifest import Manifest
from dist_seg.data.mixed_plan import MixedPlan
from dist_seg.data.pixel_values import check_jitter, fit_pixels
from dist_seg.data.plan import EvalPlan
from dist_seg.data.run_data import open_run_data
from dist_seg.data.training_plan import training_plan
from dist_seg.engine.class_info import class_info
from dist_seg.engine.run import TrainingOutcome, check_lanes, run_training
from dist_seg.engine.run_folder import RunFolder, check_same_run
from dist_seg.engine.start import find_checkpoint
from dist_seg.engine.start_classes import in_order_of_start, start_classes
from dist_seg.engine.stop import StopSignal
from dist_seg.errors import CheckpointError, ConfigError, DataError, UserError
from dist_seg.models.norm import NormKind, check_norm
from dist_seg.runtime.allocator import keep_freed_memory
from dist_seg.runtime.board import FirstCause
from dist_seg.runtime.collectives import gather_json, on_every_rank, on_main, raise_if_any
from dist_seg.runtime.process_group import process_group
from dist_seg.runtime.startup import STARTUP
from dist_seg.runtime.storage import Storage
from dist_seg.runtime.watchdog import GROUP_MARGIN_S, Watchdog, watched
from dist_seg.runtime.world import World, detect_world, set_threads
from dist_seg.tasks.build import build_task
from dist_seg.telemetry.accounting import ProcessAccount
from dist_seg.telemetry.build import build_sinks, check_sinks
from dist_seg.telemetry.events import Event, RunEnded
from dist_seg.telemetry.progress import duration

_log = logging.getLogger(__name__)
EXIT_FAULT, EXIT_PREEMPTED = 1, 143


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
class _Prepared:
    """Everything that was settled before the first step, equal on every rank."""

    config: Config
    folder: RunFolder
    storage: Storage
    manifest: Manifest
    bad_shards: Mapping[str, str]
    """Of the shards that are not to be read, the reasons by name."""


def train(options: TrainOptions, process_started: float) -> int:
    """Runs the command on this rank; returns the exit code."""
    STARTUP.done("imports")
    keep_freed_memory()
    config = load_config(options.files, options.overrides)
    if options.print_config and not config.data.place:
        print(to_yaml(config), end="")
        return 0
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(run_dir_of(config))))
    world = detect_world()
    num_threads = set_threads(world, config.train.num_threads)
    timeout_s = config.train.timeout_s
    STARTUP.done("settings")
    with (
        StopSignal() as stop,
        process_group(world, timeout_s + GROUP_MARGIN_S, single=config.engine.name == "deepspeed") as start,
        watched(world, start, timeout_s) as watchdog,
    ):
        watchdog.check_worth_starting()
        world = dataclasses.replace(world, restarts=watchdog.restarts)
        STARTUP.done("process_group")
        prepared = _prepare(config, options, world, num_threads)
        STARTUP.done("settings")
        if options.print_config or options.dry_run:
            return 0
        loader_threads = num_threads if config.data.num_threads is None else config.data.num_threads
        return _run(prepared, world, loader_threads, stop, watchdog, process_started, fresh=options.fresh)


def _prepare(config: Config, options: TrainOptions, world: World, num_threads: int) -> _Prepared:
    data = open_run_data(config.data)
    storage, manifest = data.storage, data.manifest
    if config.task not in ("auto", manifest.task):
        raise ConfigError(f"{storage.url} is packed for the task {manifest.task!r}, but task={config.task}")
    config = dataclasses.replace(config, task=cast(Literal["semantic", "multilabel", "instance"], manifest.task))
    folder = RunFolder(path=run_dir_of(config), checkpoint_dir=config.checkpoint.dir)
    # Not again when the launcher restarts the ranks: what lies there then is the run itself.
    is_fresh = options.fresh and not world.restarts
    names = cast(list[str] | None, on_main(lambda: start_classes(config, folder, fresh=is_fresh)))
    if names is not None:
        manifest = in_order_of_start(manifest, tuple(names), log=world.is_main)

    def settle() -> dict[str, object]:
        settled, bad_shards = _settle(config, options, folder, storage, manifest, world, num_threads)
        if is_fresh and not (options.dry_run or options.print_config):
            aside = folder.move_aside()
            if aside is not None:
                _log.info("the old run was moved to %s", aside)
            elsewhere = _set_aside(folder) if config.checkpoint.dir else []
            if elsewhere:
                _log.info("%s: checkpoints of steps %s were set aside", config.checkpoint.dir, elsewhere)
        return {"config": to_tree(settled), "bad_shards": bad_shards}

    found = cast(dict[str, dict[str, object]], on_main(settle))
    return _Prepared(
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
    fresh = options.fresh and not world.restarts
    stored = None if fresh or not folder.checkpoints.steps() else folder.stored_config()
    if stored is not None:
        config = capacity.fill_from(config, stored)
    bad_shards = _check_shards(config, storage, manifest)
    check_jitter(config.augment, manifest)
    config = dataclasses.replace(config, data=fit_pixels(config.data, manifest))
    facts = capacity.data_facts(storage, manifest, config.data.train_split, bad_shards)
    config = capacity.fit_sizes(config, facts, world)
    if not fresh and not options.resume_with_changes:
        check_same_run(folder, config, manifest.hash)
    check_lanes(config, training_plan(config.data, config.train, manifest), world.size)
    check_norm(cast(NormKind, config.model.norm))
    build_task(config, class_info(manifest)).metric()  # The user's own metrics: not only after hours of training.
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, loader=choose_loader(config)))
    if options.dry_run:
        _check_start(config, folder, storage, manifest, world, bad_shards)
    if config.train.max_steps is None or options.dry_run or _is_fitted(options):
        measured = capacity.measure(config, manifest, world)
        config = capacity.fit_steps(config, facts, world, measured)
        if not options.print_config:
            _show_plan(config, facts, world, measured, manifest, num_threads)
    else:
        config = capacity.fit_steps(config, facts, world, _NOTHING_MEASURED)
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


_NOTHING_MEASURED = capacity.Measured(seconds=0.0, parameter_bytes=0, process_bytes=0, activation_bytes=0)


def _is_fitted(options: TrainOptions) -> bool:
    """Without a file of settings the user has not seen what will be trained, nor how long."""
    return not options.files


def _show_plan(
    config: Config,
    facts: capacity.DataFacts,
    world: World,
    measured: capacity.Measured,
    manifest: Manifest,
    num_threads: int,
) -> None:
    train, augment = config.train, config.augment
    guess = capacity.estimate(config, world, measured)
    val = EvalPlan(manifest.split(config.data.scored_split).shard_samples, batch=config.eval.batch)
    assert train.global_batch and train.micro_batch
    mebibyte, names = 2**20, manifest.class_names
    plan = training_plan(config.data, train, manifest)
    shares = plan.shares.items() if isinstance(plan, MixedPlan) else ()
    lines = [
        f"data        {config.data.place}: {facts.num_train} training and {val.num_samples} validation images of "
        f"about {facts.width}x{facts.height}, {len(names)} classes "
        f"({', '.join(names[:8])}{', ...' * (len(names) > 8)})",
        f"model       {config.model.name}, {config.model.encoder}, weights {config.model.weights}, "
        f"{measured.parameter_bytes / 4e6:.1f} M parameters",
        *([f"samples     {', '.join(f'{name} {share:.1%}' for name, share in shares)}"] if shares else []),
        *_heads(config),
        f"training    {train.max_steps} steps of {train.global_batch} images ({train.global_batch // train.micro_batch}"
        f" lanes of {train.micro_batch}), crops of {augment.crop_width}x{augment.crop_height}, "
        f"{_input_size(config)}; {world.size} rank(s) on {world.device.type}, {num_threads} thread(s) each",
        f"memory      a rank: {guess.process_bytes / mebibyte:.0f} MiB for Python and its libraries, "
        f"{guess.device_bytes / mebibyte:.0f} MiB for the model and its training, "
        f"{guess.host_bytes / mebibyte:.0f} MiB for batches decoded ahead; all ranks here: "
        f"{guess.total_bytes * world.local_size / mebibyte:.0f} MiB",
        f"time        about {duration(guess.seconds)} without evaluation, from one micro-batch measured now "
        f"({measured.seconds:.2f} s)",
    ]
    if config.model.norm == "sync":
        lines.append("note        model.norm=sync: the loss curve depends on the number of ranks")
    print("\n".join(lines), file=sys.stderr, flush=True)


def _heads(config: Config) -> list[str]:
    heads = config.mask_rcnn
    if config.task != "instance" or config.model.name != "mask_rcnn":
        return []
    assert heads.anchor_sizes is not None
    anchors = ", ".join(f"{size:g}" for size in heads.anchor_sizes)
    return [
        f"heads       anchors of {anchors} pixels, up to {heads.detections_per_image} detections an image; widths: "
        f"pyramid {heads.fpn_channels}, boxes {heads.box_channels}, masks {heads.mask_channels}"
    ]


def _input_size(config: Config) -> str:
    side = config.data.input_side
    return f"longer side {side}" if side else f"input scale {config.data.input_scale:g}"


def _run(
    prepared: _Prepared,
    world: World,
    num_threads: int,
    stop: StopSignal,
    watchdog: Watchdog,
    process_started: float,
    *,
    fresh: bool,
) -> int:
    """Trains and finishes the run; how it ended stands in `outcome.json`, as torchrun hides the ranks' exit codes."""
    folder = prepared.folder
    ended, step, code = "failed", -1, EXIT_FAULT
    with ExitStack() as stack:
        on_main(lambda: stack.enter_context(folder.locked()))
        on_main(lambda: str(folder.write_json("outcome.json", {"outcome": "running", "started": process_started})))
        try:
            outcome = _train_and_log(prepared, world, num_threads, stop, watchdog, process_started)
            step, ended = outcome.step, "complete" if outcome.complete else "preempted"
            code = _finish(prepared, outcome, world) if outcome.complete else EXIT_PREEMPTED
        except BaseException as error:
            cause = watchdog.cause_of(error)
            if watchdog.reports_for_all(cause):
                code = error.exit_code if cause is None and isinstance(error, UserError) else EXIT_FAULT
                _write_failure(folder, _reason(error, watchdog), code)
            raise
        if world.is_main:
            _write_outcome(folder, {"outcome": ended, "exit_code": code, "step": step, "reason": ""})
    if ended == "preempted" and world.is_main:
        print(f"stopped at step {step}; {_how_to_go_on(prepared.config, fresh)}", file=sys.stderr)
    return code


def _newest_step(folder: RunFolder) -> int:
    """Of the checkpoints; -1 where there is none, or none can be seen."""
    try:
        return max(folder.checkpoints.steps(), default=-1)
    except CheckpointError as error:  # A storage that is away must not hide why the run ended.
        _log.error("%s", error)
        return -1


def _reason(error: BaseException, watchdog: Watchdog) -> str:
    """Why the run has failed: this rank's own error, or the one of another rank that it follows from."""
    cause = watchdog.cause_of(error)
    return f"{type(error).__name__}: {error}" if cause is None else cause.words


def _write_failure(folder: RunFolder, reason: str, code: int) -> None:
    ending = {"outcome": "failed", "exit_code": code, "step": _newest_step(folder), "reason": reason}
    _write_outcome(folder, ending)


def _write_outcome(folder: RunFolder, ending: Mapping[str, object]) -> None:
    try:
        folder.write_json("outcome.json", ending)
    except CheckpointError as error:  # A full disk must not hide why the run ended.
        _log.error("%s", error)


def _how_to_go_on(config: Config, fresh: bool) -> str:
    anew = ["--fresh"] * fresh + ["checkpoint.resume=none"] * (config.checkpoint.resume == "none")
    return f"the same command{' without ' + ' and '.join(anew) if anew else ''} goes on from there"


def _train_and_log(
    prepared: _Prepared,
    world: World,
    num_threads: int,
    stop: StopSignal,
    watchdog: Watchdog,
    process_started: float,
) -> TrainingOutcome:
    config, folder = prepared.config, prepared.folder
    telemetry = on_every_rank(
        lambda: build_sinks(config.telemetry, folder.path, rank=world.rank, local_rank=world.local_rank)
    )
    ports = gather_json(telemetry.prometheus_port)
    on_main(lambda: str(folder.write_json("ports.json", {"prometheus": ports})))
    account, outcome, ended, reason = ProcessAccount(), None, "failed", ""

    def emit(event: Event) -> None:
        account.emit(event)
        telemetry.sink.emit(event)

    def end(step: int, outcome: str, reason: str) -> None:
        wall_s = time.time() - process_started
        seconds = account.seconds(wall_s)
        telemetry.sink.emit(RunEnded(step=step, outcome=outcome, reason=reason, wall_s=wall_s, seconds=seconds))
        telemetry.sink.close()

    def last_words(cause: FirstCause) -> None:
        if watchdog.reports_for_all(cause):
            _write_failure(folder, cause.words, EXIT_FAULT)
        end(-1, "failed", cause.words)

    watchdog.last_words = last_words
    try:
        outcome = run_training(
            config,
            world=world,
            folder=folder,
            storage=prepared.storage,
            manifest=prepared.manifest,
            num_threads=num_threads,
            emit=emit,
            stop=stop,
            bad_shards=prepared.bad_shards,
        )
        ended = "complete" if outcome.complete else "preempted"
        if outcome.unsaved is not None:
            ended, reason = "failed", str(outcome.unsaved)
    except BaseException as error:
        reason = _reason(error, watchdog)
        raise
    finally:
        end(outcome.step if outcome else -1, ended, reason)
    return outcome


def _drawn(folder: RunFolder, world: World) -> str:
    """Draws the report, and says where it lies. A disk that is full by now does not undo the run."""
    from dist_seg.commands.report import render_report  # Its plots' library takes seconds of every start.

    try:
        report = render_report(folder, world)
    except UserError as error:
        _log.error("%s. The run is complete; draw its report with `dist-seg report %s`", error, folder.path)
        return ""
    return f"report      {report}\npictures    {folder.pictures_file}\n"


def _finish(prepared: _Prepared, outcome: TrainingOutcome, world: World) -> int:
    """The result and the report of a complete run; the exit code. Raises CheckpointError, with the result written,
    where the last step is in no checkpoint."""
    config, folder = prepared.config, prepared.folder
    assert outcome.result is not None
    document = dict(outcome.result.document)
    if world.is_main:
        document |= {
            "checkpoint": {"step": outcome.step, "weights": "ema" if config.train.ema_decay else "raw"},
            "manifest_hash": prepared.manifest.hash,
            "split": config.data.scored_split,
        }
        folder.write_json("result.json", document)
        saved = "" if outcome.unsaved else f"checkpoint  {folder.checkpoints.path(outcome.step)}\n"
        print(f"{summary_line(document)}\n{_drawn(folder, world)}{saved}result      {folder.result_file}")
    raise_if_any(outcome.unsaved)
    left_out = cast(Sequence[object], document["left_out"])
    return 1 if left_out and not config.eval.allow_bad_samples else 0
