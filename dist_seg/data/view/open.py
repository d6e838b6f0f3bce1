"""What a run sees of packed data: where it lies, and its manifest as the configuration's `data` section wants it."""

import base64
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from dist_seg.config.schema import DataConfig
from dist_seg.data.shards.bad_shards import BadShardError, read_index
from dist_seg.data.shards.manifest import Manifest, Split
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.names import group_names
from dist_seg.data.view.data_view import RunData
from dist_seg.data.view.mix import MixedStorage, united
from dist_seg.data.view.reader import ShardReader
from dist_seg.data.view.selection import Folds, Selection, fold_numbers, group_hashes
from dist_seg.data.view.taxonomy import SETTING, map_classes
from dist_seg.distributed.collectives import on_every_rank, on_main
from dist_seg.errors import ConfigError, DataError
from dist_seg.storage.object_store import Storage, open_storage

_READING_THREADS = 32
T = TypeVar("T")

IndexFacts = Mapping[str, object]
"""What one rank looks up in the shards' indexes for all of them; JSON-ready."""


def open_run_data(data: DataConfig) -> RunData:
    """The data of a configuration, the same on every rank. A collective; raises UserError for what cannot be used."""
    members = _members(data)
    packed = on_every_rank(lambda: [_packed(member, name) for name, member in members])
    pairs = [(data_set, member) for data_set, (_, member) in zip(packed, members, strict=True)]
    facts = cast(list[IndexFacts], on_main(lambda: [_index_facts(*pair) for pair in pairs]))
    chosen = on_every_rank(lambda: _mixed(data, [_viewed(*pair, f) for pair, f in zip(pairs, facts, strict=True)]))
    if data.sampling == "uniform":
        return chosen
    counted = cast(list[list[int]] | None, on_main(lambda: _counted_class_samples(chosen, data)))
    return on_every_rank(lambda: _with_class_samples(chosen, data, counted))


def load_run_data(data: DataConfig) -> RunData:
    """As `open_run_data`, on this rank alone, and without what only a plan of training needs."""
    return _mixed(data, [view(_packed(member, name), member) for name, member in _members(data)])


def view(packed: RunData, data: DataConfig) -> RunData:
    """One data set as it lies, seen as `data` wants it; without what only a plan of training needs."""
    if data.mix:
        raise ConfigError("data.mix: names data sets of its own; here is one already")
    return _viewed(packed, data, _index_facts(packed, data))


def _members(data: DataConfig) -> list[tuple[str | None, DataConfig]]:
    """Name and configuration of each data set that is mixed, or the very one."""
    if not data.mix:
        return [(None, data)]
    return [(m.name, replace(data, mix=(), shards=m.shards, class_map=m.class_map)) for m in data.mix]


def _mixed(data: DataConfig, members: Sequence[RunData]) -> RunData:
    if not data.mix:
        return members[0]
    by_name = {str(member.name): member for member in members}
    return RunData(
        storage=MixedStorage(members={name: member.storage for name, member in by_name.items()}),
        manifest=united({name: member.manifest for name, member in by_name.items()}),
    )


def _packed(data: DataConfig, name: str | None) -> RunData:
    if data.shards is None:
        raise ConfigError("data.shards is not set: give the folder that `dist-seg pack` wrote, or several as data.mix")
    storage = open_storage(data.shards, retry_s=data.retry_s)
    manifest = load_manifest(storage)
    split = manifest.splits.get(data.train_split)
    if name is not None and (split is None or not split.num_samples):
        raise DataError(
            f"data.mix: {name} ({storage.url}) has no samples of split {data.train_split}; it has "
            f"{', '.join(manifest.splits) or 'none'}"
        )
    return RunData(storage=storage, manifest=manifest, name=name)


def _viewed(packed: RunData, data: DataConfig, facts: IndexFacts) -> RunData:
    where = SETTING if packed.name is None else f"data.mix: class_map of {packed.name}"
    manifest = map_classes(packed.manifest, data.class_map, where)
    return replace(packed, manifest=_with_chosen_samples(manifest, data, facts))


def _index_facts(packed: RunData, data: DataConfig) -> IndexFacts:
    """Reads every index of the training split where that is needed."""
    if data.folds is None or data.fold_by is None:
        return {}
    split = packed.manifest.split(data.train_split)

    def groups_of(shard: int) -> NDArray[np.int64]:
        keys = read_index(packed.storage, split.shards[shard]).keys()
        return group_hashes(group_names(keys, data.fold_by, "data.fold_by"))

    no_groups = np.empty(0, np.int64)
    groups = np.concatenate([no_groups, *_of_every_index(split, groups_of, packed.storage, "data.fold_by")])
    numbers = fold_numbers(groups, data.folds)
    if (number := len(np.unique(numbers))) < data.folds:  # each of the first groups has one to itself
        raise ConfigError(
            f"data.fold_by={data.fold_by}: makes {number} groups of {packed.storage.url}, fewer than the "
            f"data.folds={data.folds} folds they are to be divided into"
        )
    return {"folds": base64.b64encode(numbers.tobytes()).decode()}


def _with_chosen_samples(manifest: Manifest, data: DataConfig, facts: IndexFacts) -> Manifest:
    """With the split that is validated on, where that is a fold, and a training split of what is left to it."""
    if data.folds is None and data.fraction == 1:
        return manifest
    split = manifest.split(data.train_split)
    if data.folds is None:
        return replace(manifest, splits={**manifest.splits, data.train_split: _chosen(split, None, data.fraction)})
    assert data.fold is not None
    if data.scored_split in manifest.splits:
        raise ConfigError(f"data.folds={data.folds}: the data has a split {data.scored_split} already")
    if split.num_samples < data.folds:
        raise DataError(
            f"data.folds={data.folds}: there are {split.num_samples} samples in split {data.train_split} of "
            f"{data.shards}; choose fewer"
        )
    numbers = _by_shard(split, facts.get("folds"))
    trained, held_out = (
        Folds(count=data.folds, fold=data.fold, held_out=held_out, numbers=numbers) for held_out in (False, True)
    )
    parts = {
        data.train_split: _chosen(split, trained, data.fraction),
        data.scored_split: _chosen(split, held_out, 1.0),
    }
    return replace(manifest, splits={**manifest.splits, **parts})


def _listed_class_samples(run: RunData, data: DataConfig) -> list[Sequence[int]] | None:
    """Of every shard of the training split, the number of samples that hold each class; None where the manifest does
    not say so of these very samples and classes.
    """
    split = run.manifest.split(data.train_split)
    if split.selection is not None or run.manifest.class_ids is not None:
        return None
    listed: list[Sequence[int]] = [shard.class_samples for shard in split.shards if shard.class_samples is not None]
    return listed if len(listed) == len(split.shards) else None


def _counted_class_samples(run: RunData, data: DataConfig) -> list[list[int]] | None:
    """The same from every shard's index, where it is not listed; None where it is, as every rank has the list."""
    if _listed_class_samples(run, data) is not None:
        return None
    split = run.manifest.split(data.train_split)
    reader = ShardReader(run.storage, run.manifest, data.train_split)
    return _of_every_index(split, reader.class_samples, run.storage, "data.sampling")


def _with_class_samples(run: RunData, data: DataConfig, counted: Sequence[Sequence[int]] | None) -> RunData:
    found = _listed_class_samples(run, data) if counted is None else counted
    if found is None:
        raise DataError(f"{run.storage.url}: its manifest.json is not the one that rank 0 has read")
    split = run.manifest.split(data.train_split)
    most = max((shard.samples for shard in split.shards), default=0)
    class_samples = np.empty((len(found), run.manifest.num_classes), np.min_scalar_type(most))
    for i, counts in enumerate(found):
        class_samples[i] = counts
    split = replace(split, class_samples=class_samples)
    return replace(run, manifest=replace(run.manifest, splits={**run.manifest.splits, data.train_split: split}))


def _of_every_index(split: Split, look_up: Callable[[int], T], storage: Storage, setting: str) -> list[T]:
    """What is looked up in the index of every shard, by its position."""
    with ThreadPoolExecutor(_READING_THREADS) as pool:  # Object stores answer after tens of milliseconds each.
        try:
            return list(pool.map(look_up, range(len(split.shards))))
        except BadShardError as error:
            raise DataError(f"{storage.url}/{error}; {setting} needs the index of every shard") from error


def _chosen(split: Split, folds: Folds | None, fraction: float) -> Split:
    names, samples = [shard.name for shard in split.shards], split.shard_samples
    return replace(split, selection=Selection(names, samples, folds=folds, fraction=fraction))


def _by_shard(split: Split, encoded: object) -> tuple[NDArray[np.uint8], ...] | None:
    if encoded is None:
        return None
    numbers = np.frombuffer(base64.b64decode(cast(str, encoded)), np.uint8)
    ends: Sequence[int] = np.cumsum(split.shard_samples).tolist()
    return tuple(np.split(numbers, ends[:-1]))
