"""Other classes than those that a data set was packed with: renamed, merged, ignored or in another order.

Nothing is packed again. A manifest becomes another one, whose `class_ids` say what the ids in its shards stand for.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.encoded import TargetClasses
from dist_seg.data.shards.manifest import Manifest, ObjectCounts, Split
from dist_seg.errors import ConfigError
from dist_seg.masks.palette import Rgb

SETTING = "data.class_map"
ONLY = ""
"""The key of `Manifest.class_ids` where there is one data set."""


def map_classes(manifest: Manifest, class_map: Mapping[str, str | None], where: str) -> Manifest:
    """The manifest with new names of classes by their old ones; None ignores a class, others stay as they are.

    Classes of one name become one, with the colour and category of the first. They are in the order in which their
    names appear first. `where` names the setting. Raises ConfigError for a class that there is not, and where none is
    left.
    """
    for name in class_map:
        if name not in manifest.class_names:
            near = difflib.get_close_matches(name, manifest.class_names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(manifest.class_names)}"
            raise ConfigError(f"{where}: the data has no class {name!r}; {hint}")
    new_names = [class_map.get(name, name) for name in manifest.class_names]
    names = tuple(dict.fromkeys(name for name in new_names if name is not None))
    if not names:
        raise ConfigError(f"{where}: ignores every class of the data; leave one at least")
    if "" in names:
        raise ConfigError(f"{where}: a class must have a name; null ignores a class")
    if new_names == list(manifest.class_names):
        return manifest
    firsts = [new_names.index(name) for name in names]
    return _remapped(
        manifest,
        [None if name is None else names.index(name) for name in new_names],
        names,
        tuple(manifest.palette[first] for first in firsts),
        None if manifest.category_ids is None else tuple(manifest.category_ids[first] for first in firsts),
        IGNORE_INDEX,
    )


def unknown_classes(manifest: Manifest, names: Sequence[str]) -> list[str]:
    """The manifest's classes that are not among `names`."""
    return [name for name in manifest.class_names if name not in names]


def align_classes(
    manifest: Manifest,
    names: tuple[str, ...],
    palette: tuple[Rgb, ...],
    category_ids: tuple[int, ...] | None,
    ignore_index: int,
) -> Manifest:
    """The manifest with the classes `names`, in that order: its own ones, all of which must be among them, and more."""
    assert not unknown_classes(manifest, names)
    if names == manifest.class_names and ignore_index == manifest.ignore_index:
        return manifest
    targets = [names.index(name) for name in manifest.class_names]
    return _remapped(manifest, targets, names, palette, category_ids, ignore_index)


def class_id_table(manifest: Manifest, dataset: str | None) -> NDArray[np.uint8] | None:
    """(256,) uint8: what the ids in a data set's shards stand for; None where that is what they are."""
    ids = (manifest.class_ids or {}).get(dataset or ONLY)
    if ids is None:
        return None
    table = np.full(256, manifest.ignore_index, np.uint8)
    table[: len(ids)] = [manifest.ignore_index if new == IGNORE_INDEX else new for new in ids]
    return table


def target_classes(manifest: Manifest, dataset: str | None) -> TargetClasses:
    """The classes of a data set's targets: those that it was packed with, and those of the run."""
    return TargetClasses(
        num_classes=manifest.num_classes,
        ignore_index=manifest.ignore_index,
        num_packed=num_packed_classes(manifest, dataset),
        packed_ignore_index=packed_ignore_index(manifest, dataset),
        new_ids=class_id_table(manifest, dataset),
    )


def num_packed_classes(manifest: Manifest, dataset: str | None) -> int:
    """How many classes a data set was packed with."""
    ids = (manifest.class_ids or {}).get(dataset or ONLY)
    return manifest.num_classes if ids is None else len(ids)


def packed_ignore_index(manifest: Manifest, dataset: str | None) -> int:
    """The ignore index that a data set was packed with."""
    return (manifest.packed_ignore or {}).get(dataset or ONLY, manifest.ignore_index)


def _remapped(
    manifest: Manifest,
    targets: Sequence[int | None],
    names: tuple[str, ...],
    palette: tuple[Rgb, ...],
    category_ids: tuple[int, ...] | None,
    ignore_index: int,
) -> Manifest:
    """targets: for every class of the manifest its new id; None for one that is ignored."""
    identity = tuple(range(len(targets)))
    class_ids, packed_ignore = {}, {}
    for dataset in _datasets(manifest):
        before = (manifest.class_ids or {}).get(dataset, identity)
        ids = tuple(IGNORE_INDEX if old == IGNORE_INDEX or (new := targets[old]) is None else new for old in before)
        # Where classes are only called otherwise, ids stay as they are, and their number.
        changed = ids != tuple(range(len(names))) or manifest.ignore_index != ignore_index
        if changed or dataset in (manifest.class_ids or {}):
            class_ids[dataset], packed_ignore[dataset] = ids, packed_ignore_index(manifest, dataset)
    return replace(
        manifest,
        class_names=names,
        palette=palette,
        ignore_index=ignore_index,
        category_ids=category_ids,
        class_ids=class_ids or None,
        packed_ignore=packed_ignore or None,
        splits={
            name: _remapped_split(split, targets, len(names), overlaps=manifest.target_kind.overlaps)
            for name, split in manifest.splits.items()
        },
    )


def _datasets(manifest: Manifest) -> list[str]:
    """The keys of `Manifest.class_ids` of all data sets that it speaks of."""
    of_shards = [shard.dataset or ONLY for split in manifest.splits.values() for shard in split.shards]
    return list(dict.fromkeys([*of_shards, *(manifest.class_ids or {})])) or [ONLY]


def _remapped_split(split: Split, targets: Sequence[int | None], num_classes: int, *, overlaps: bool) -> Split:
    pixels, ignored = _summed(split.class_pixels, targets, num_classes)
    return replace(
        split,
        class_pixels=pixels,
        ignored_pixels=split.ignored_pixels + (0 if overlaps else ignored),
        objects=None if split.objects is None else _remapped_objects(split.objects, targets, num_classes),
        class_samples=None if split.class_samples is None else _moved(split.class_samples, targets, num_classes),
    )


def _moved(
    counts: NDArray[np.unsignedinteger], targets: Sequence[int | None], num_classes: int
) -> NDArray[np.unsignedinteger]:
    """(shards, classes) counts of samples in columns of the new ids. Classes that become one are more than a sum: a
    sample may hold both.
    """
    columns = [target for target in targets if target is not None]
    assert len(set(columns)) == len(targets)
    moved = np.zeros((len(counts), num_classes), counts.dtype)
    moved[:, columns] = counts
    return moved


def _remapped_objects(counts: ObjectCounts, targets: Sequence[int | None], num_classes: int) -> ObjectCounts:
    objects, ignored = _summed(counts.class_objects, targets, num_classes)
    return replace(counts, class_objects=objects, crowd_objects=counts.crowd_objects + ignored)


def _summed(counts: Sequence[int], targets: Sequence[int | None], num_classes: int) -> tuple[tuple[int, ...], int]:
    """Counts by new class, and those of the classes that are ignored."""
    sums, ignored = [0] * num_classes, 0
    for count, target in zip(counts, targets, strict=True):
        if target is None:
            ignored += count
        else:
            sums[target] += count
    return tuple(sums), ignored
