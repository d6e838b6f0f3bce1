"""Opening the view of packed data that the configuration's `data` section asks for."""

import base64
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from dist_seg.config.schema import DataConfig
from dist_seg.data.raw.splitting import group_names
from dist_seg.data.shards.bad_shards import BadShardError, read_sidecar
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.view.data_view import DataView, SplitView, whole_view
from dist_seg.data.view.mix import united
from dist_seg.data.view.reader import ShardReader
from dist_seg.data.view.selection import Folds, Selection, fold_numbers, group_hashes
from dist_seg.data.view.taxonomy import SETTING, map_classes
from dist_seg.distributed.collectives import on_every_rank, on_main
from dist_seg.errors import ConfigError, DataError
from dist_seg.storage.object_store import open_storage

_READING_THREADS = 32
T = TypeVar("T")

IndexFacts = Mapping[str, object]
"""What one rank looks up in the sidecars of shards for all ranks; JSON-ready."""


def open_view(data: DataConfig) -> DataView:
    """The data of a configuration, the same on every rank. A collective; raises UserError if it cannot be used."""
    members = _members(data)
    packed = on_every_rank(lambda: [_packed(member, name) for name, member in members])
    pairs = [(whole, member) for whole, (_, member) in zip(packed, members, strict=True)]
    facts = cast(list[IndexFacts], on_main(lambda: [_index_facts(*pair) for pair in pairs]))
    chosen = on_every_rank(lambda: _mixed(data, packed, facts))
    if data.sampling == "uniform":
        return chosen
    counted = cast(list[list[int]] | None, on_main(lambda: _counted_class_samples(chosen, data)))
    return on_every_rank(lambda: _with_class_samples(chosen, data, counted))


def load_view(data: DataConfig) -> DataView:
    """Like `open_view`, on this rank alone and without what only a training plan needs."""
    members = _members(data)
    packed = [_packed(member, name) for name, member in members]
    facts = [_index_facts(whole, member) for whole, (_, member) in zip(packed, members, strict=True)]
    return _mixed(data, packed, facts)


def viewed(packed: DataView, data: DataConfig) -> DataView:
    """The view of one data set that `data` asks for, without what only a training plan needs."""
    if data.mix:
        raise ConfigError("data.mix: names data sets, but a data set is given already")
    return _viewed(packed, data, _index_facts(packed, data), SETTING)


def _members(data: DataConfig) -> list[tuple[str | None, DataConfig]]:
    """Name and configuration of every data set of the mix, or of the only data set."""
    if not data.mix:
        return [(None, data)]
    return [(m.name, replace(data, mix=(), shards=m.shards, class_map=m.class_map)) for m in data.mix]


def _mixed(data: DataConfig, packed: Sequence[DataView], facts: Sequence[IndexFacts]) -> DataView:
    """The view of all data sets. packed, facts: in the order of `_members`."""
    views = {}
    for (name, member), whole, found in zip(_members(data), packed, facts, strict=True):
        setting = SETTING if name is None else f"data.mix: class_map of {name}"
        views[name or ""] = _viewed(whole, member, found, setting)
    return united(views) if data.mix else views[""]


def _packed(data: DataConfig, name: str | None) -> DataView:
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
    return whole_view(storage, manifest)


def _viewed(packed: DataView, data: DataConfig, facts: IndexFacts, setting: str) -> DataView:
    return _with_chosen_samples(map_classes(packed, data.class_map, setting), data, facts)


def _index_facts(packed: DataView, data: DataConfig) -> IndexFacts:
    """Reads every sidecar of the training split if the configuration needs that."""
    if data.folds is None or data.fold_by is None:
        return {}
    split = packed.split(data.train_split)

    def groups_of(shard: int) -> NDArray[np.int64]:
        keys = read_sidecar(packed.storage, split.shards[shard]).keys()
        return group_hashes(group_names(keys, data.fold_by, "data.fold_by"))

    no_groups = np.empty(0, np.int64)
    groups = np.concatenate([no_groups, *_of_every_index(split, groups_of, packed.url, "data.fold_by")])
    numbers = fold_numbers(groups, data.folds)
    if (number := len(np.unique(numbers))) < data.folds:  # each of the first groups gets a fold of its own
        raise ConfigError(
            f"data.fold_by={data.fold_by}: makes {number} groups of {packed.url}, fewer than the "
            f"data.folds={data.folds} folds they are to be divided into"
        )
    return {"folds": base64.b64encode(numbers.tobytes()).decode()}


def _with_chosen_samples(view: DataView, data: DataConfig, facts: IndexFacts) -> DataView:
    """The view with the chosen samples: a fold as the scored split, the rest or a fraction as the training split."""
    if data.folds is None and data.fraction == 1:
        return view
    split = view.split(data.train_split)
    if data.folds is None:
        return replace(view, splits={**view.splits, data.train_split: _chosen(split, None, data.fraction)})
    assert data.fold is not None
    if data.scored_split in view.splits:
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
    return replace(view, splits={**view.splits, **parts})


def _listed_class_samples(view: DataView, data: DataConfig) -> list[Sequence[int]] | None:
    """Samples that hold each class, for every shard of the training split; None if the manifest does not list them for
    these very samples and classes.
    """
    split = view.split(data.train_split)
    if split.selection is not None or view.class_ids is not None:
        return None
    listed: list[Sequence[int]] = [shard.class_samples for shard in split.shards if shard.class_samples is not None]
    return listed if len(listed) == len(split.shards) else None


def _counted_class_samples(view: DataView, data: DataConfig) -> list[list[int]] | None:
    """The same counts from the sidecars; None if the manifest lists them, as then every rank has the list."""
    if _listed_class_samples(view, data) is not None:
        return None
    reader = ShardReader(view, data.train_split)
    return _of_every_index(view.split(data.train_split), reader.class_samples, view.url, "data.sampling")


def _with_class_samples(view: DataView, data: DataConfig, counted: Sequence[Sequence[int]] | None) -> DataView:
    found = _listed_class_samples(view, data) if counted is None else counted
    if found is None:
        raise DataError(f"{view.url}: its manifest.json is not the one that rank 0 has read")
    split = view.split(data.train_split)
    most = max((shard.samples for shard in split.shards), default=0)
    class_samples = np.empty((len(found), view.num_classes), np.min_scalar_type(most))
    for i, counts in enumerate(found):
        class_samples[i] = counts
    return replace(view, splits={**view.splits, data.train_split: replace(split, class_samples=class_samples)})


def _of_every_index(split: SplitView, look_up: Callable[[int], T], url: str, setting: str) -> list[T]:
    """What `look_up` finds in the sidecar of every shard, by the shard's position."""
    with ThreadPoolExecutor(_READING_THREADS) as pool:  # Object stores answer after tens of milliseconds each.
        try:
            return list(pool.map(look_up, range(len(split.shards))))
        except BadShardError as error:
            raise DataError(f"{url}/{error}; {setting} needs the sidecar of every shard") from error


def _chosen(split: SplitView, folds: Folds | None, fraction: float) -> SplitView:
    names, samples = [shard.name for shard in split.shards], split.shard_samples
    return replace(split, selection=Selection(names, samples, folds=folds, fraction=fraction))


def _by_shard(split: SplitView, encoded: object) -> tuple[NDArray[np.uint8], ...] | None:
    if encoded is None:
        return None
    numbers = np.frombuffer(base64.b64decode(cast(str, encoded)), np.uint8)
    ends: Sequence[int] = np.cumsum(split.shard_samples).tolist()
    return tuple(np.split(numbers, ends[:-1]))
