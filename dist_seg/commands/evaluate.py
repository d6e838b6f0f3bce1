"""`dist-seg eval`: the exact score of a trained model on any shards whose classes it knows."""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from dist_seg.config.schema import DataConfig
from dist_seg.data.loading.loader import loader_threads
from dist_seg.data.shards.bad_shards import find_bad_shards, unusable
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.view.data_view import DataView
from dist_seg.data.view.open import open_view
from dist_seg.data.view.pixel_values import check_images
from dist_seg.data.view.taxonomy import SETTING, unknown_classes
from dist_seg.distributed.collectives import on_every_rank, on_main
from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.world import World, detect_world, set_threads
from dist_seg.engine.evaluator import check_flip, evaluate
from dist_seg.engine.stop import StopSignal
from dist_seg.errors import EXIT_PREEMPTED, ConfigError, UserError
from dist_seg.runs.folder import RunFolder, open_run_folder, pick_checkpoint
from dist_seg.runs.model import TrainedModel, load_trained
from dist_seg.runs.result import score_text, summary_line
from dist_seg.runtime.memory import keep_freed_memory
from dist_seg.runtime.precision import make_deterministic
from dist_seg.runtime.progress_bar import progress
from dist_seg.storage.object_store import Storage, open_storage
from dist_seg.tasks.classes import with_classes
from dist_seg.tasks.task import EvalResult

_TIMEOUT_S = 3600.0


def run_eval(options: argparse.Namespace) -> int:
    """The command, on this rank."""
    keep_freed_memory()
    world = detect_world()
    folder = open_run_folder(options.run_dir, must_exist=True)
    cpu_threads = set_threads(world, None)
    with StopSignal() as stop, process_group(world, _TIMEOUT_S):
        # Chosen once for all ranks: a run that is still training may write a newer checkpoint in between.
        checkpoint = str(on_main(lambda: pick_checkpoint(folder, options.checkpoint)))
        settings = _settings(options)
        trained = on_every_rank(lambda: load_trained(checkpoint, options.weights, world.device, settings))
        make_deterministic(trained.config, world.device)
        check_flip(trained.config)
        data_config = _data_config(trained, options)
        view = _view(trained, data_config)
        view = dataclasses.replace(view, num_threads=loader_threads(trained.config.data, cpu_threads))
        split = options.split or data_config.scored_split
        if options.allow_bad:
            config = trained.config
            config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, allow_bad_samples=True))
            trained = dataclasses.replace(trained, config=config)
        view = _without_bad_shards(trained, view, split)
        result = _evaluate(trained, view, split, world, stop)
        if result is None:
            return EXIT_PREEMPTED
    if world.is_main:
        document = {
            **result.document,
            "checkpoint": {"step": trained.step, "weights": trained.weights, "path": checkpoint},
            "manifest_hash": view.hash,
            "trained_on_manifest_hash": trained.manifest_hash,
            "shards": str(options.data or data_config.location),
            "split": split,
        }
        out = options.out or folder.path / f"eval-{split}.json"
        _write(out, document)
        _show(document, out)
    left_out = cast(Sequence[object], result.document["left_out"])
    return 1 if left_out and not trained.config.eval.allow_bad_samples else 0


def _without_bad_shards(trained: TrainedModel, view: DataView, split: str) -> DataView:
    """The view with the unusable shards of the split as `bad_shards`. A collective.

    Raises DataError if there are any and they may not be left out.
    """
    bad = cast(dict[str, str], on_main(lambda: find_bad_shards(view.storage, view.split(split).shards)))
    if bad and not trained.config.eval.allow_bad_samples:
        remedy = "or leave its samples out of the score with --allow-bad"
        raise unusable(bad, view.url, "evaluation", remedy)
    return dataclasses.replace(view, bad_shards=bad)


def _evaluate(trained: TrainedModel, view: DataView, split: str, world: World, stop: StopSignal) -> EvalResult | None:
    num_images = view.split(split).num_samples
    if num_images == 0:
        raise ConfigError(f"{view.url}: split {split!r} has no samples")
    with progress(-(-num_images // world.size), f"evaluate {split}", show=world.is_main) as bar:
        return evaluate(
            trained.model,
            task=trained.task,
            config=trained.config,
            view=view,
            split=split,
            world=world,
            on_images=bar.advance,
            stop_requested=lambda: stop.requested,
        )


def _settings(options: argparse.Namespace) -> list[str]:
    """The settings of the command line. Classes given for other data replace the classes of a mix."""
    if options.data is None or not _gives_classes(options):
        return list(options.settings)
    return [*options.settings, "data.mix=[]", f"data.shards={json.dumps(str(options.data))}"]


def _gives_classes(options: argparse.Namespace) -> bool:
    return any(setting.startswith("data.class_map") for setting in options.settings)


def _data_config(trained: TrainedModel, options: argparse.Namespace) -> DataConfig:
    """The data section of the run; with `--data`, the part of it that applies to other data."""
    _refuse_without_effect(options)
    data = dataclasses.replace(trained.config.data, sampling="uniform", sampling_temperature=None)
    if options.data is None:
        if options.split in (None, data.train_split, data.scored_split):
            return data
        # Folds do not divide this split, so there is no need to read sidecars to find them.
        return dataclasses.replace(data, fraction=1.0, folds=None, fold=None, fold_by=None)
    other = dataclasses.replace(data, shards=options.data, mix=(), fraction=1.0, folds=None, fold=None, fold_by=None)
    if _gives_classes(options):
        return other
    storage = open_storage(options.data, retry_s=data.retry_s)
    if data.mix:
        found = on_main(lambda: _number_in_mix(data, storage))
        return other if found is None else dataclasses.replace(other, class_map=data.mix[cast(int, found)].class_map)
    # Keeps the run's renaming for classes that the other data has: it may be packed like the training data, or with
    # the new names already.
    there = on_every_rank(lambda: load_manifest(storage)).class_names
    ambiguous = sorted(data.class_map.keys() & set(data.class_map.values()) & set(there))
    if ambiguous:
        raise UserError(
            f"{options.data}: {', '.join(ambiguous)}: both an old and a new name in the run's {SETTING}; say which "
            f"it is here: '{SETTING}={{...}}', or '{SETTING}={{}}' where these are the new names"
        )
    return dataclasses.replace(other, class_map={old: new for old, new in data.class_map.items() if old in there})


def _number_in_mix(data: DataConfig, storage: Storage) -> int | None:
    """The position in the run's mix of the data set with this manifest, wherever it is stored now; None without one."""
    there = load_manifest(storage).hash
    for number, member in enumerate(data.mix):
        of_member = open_storage(member.shards, retry_s=0)
        try:
            if of_member.url == storage.url or load_manifest(of_member).hash == there:
                return number
        except UserError:
            continue  # It is no longer at its old location.
    print(f"{storage.url}: is not in the run's data.mix; its classes are matched by name")
    return None


def _refuse_without_effect(options: argparse.Namespace) -> None:
    """Raises ConfigError for data settings that only apply to training, or that `--data` replaces."""
    lost = {"sampling", "sampling_temperature"}
    if options.data is not None:
        lost |= {"shards", "mix", "fraction", "folds", "fold", "fold_by"}
    given = {text.partition("=")[0].removeprefix("data.") for text in options.settings if text.startswith("data.")}
    if other := sorted(given & {"folds", "fold", "fold_by"} - lost):
        raise ConfigError(
            f"data.{other[0]}: leave it out; the run was trained on every fold except the one it held out"
        )
    if found := sorted(given & lost):
        keys = ", ".join(f"data.{name}" for name in found)
        where = "eval" if options.data is None else "eval with --data"
        raise ConfigError(f"{keys}: has no effect in {where}; leave it out")


def _view(trained: TrainedModel, data: DataConfig) -> DataView:
    """The data with the model's classes in the model's order: it may lack some, but not have others. A collective."""
    view = open_view(data)
    return on_every_rank(lambda: _with_classes_of(trained, view, data.class_map))


def _with_classes_of(trained: TrainedModel, view: DataView, class_map: Mapping[str, str | None]) -> DataView:
    """class_map: already applied to the view; the error's advice extends it."""
    classes = trained.classes
    if view.task != trained.config.task:
        raise UserError(f"{view.url} is packed for the task {view.task!r}, the model {trained.config.task}")
    check_images(trained.config.data, view, view.url)
    unknown = unknown_classes(view, classes.names)
    if unknown:
        whole = {**class_map, **dict.fromkeys(_old_names(unknown, class_map))}
        ignored = ", ".join(f"{old}: {'null' if new is None else new}" for old, new in whole.items())
        raise UserError(
            f"{view.url} has classes that the model does not know: {', '.join(unknown)}; it was trained for "
            f"{', '.join(classes.names)}. Say which of these they are with {SETTING}, or leave them out of the score: "
            f"'{SETTING}={{{ignored}}}'"
        )
    return with_classes(view, classes)


def _old_names(names: Sequence[str], class_map: Mapping[str, str | None]) -> list[str]:
    """The data's own names for classes that were renamed to `names`."""
    return [old for name in names for old in ([old for old, new in class_map.items() if new == name] or [name])]


def _write(out: Path, document: dict[str, object]) -> None:
    RunFolder(path=out.parent).write_json(out.name, document)


def _show(document: Mapping[str, object], out: Path) -> None:
    for name, iou in cast(Mapping[str, object], document["iou"]).items():
        print(f"  {name:20s} IoU {score_text(iou)}")
    print(summary_line(document))
    for sample in cast(Sequence[Mapping[str, str]], document["left_out"]):
        print(f"left out: {sample['key']} ({sample['shard']}): {sample['reason']}")
    print(f"result      {out}")
