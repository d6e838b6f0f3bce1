"""Changes the classes that a data set was packed with: renamed, merged, ignored or reordered.

Nothing is packed again. The view's `class_ids` say which of the run's classes the ids in the shards stand for.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.encoded import TargetClasses
from dist_seg.data.shards.manifest import ObjectCounts
from dist_seg.data.view.data_view import DataView, SplitView
from dist_seg.errors import ConfigError
from dist_seg.masks.palette import Rgb

SETTING = "data.class_map"
ONLY = ""
"""The key of `DataView.class_ids` if there is only one data set."""


def map_classes(view: DataView, class_map: Mapping[str, str | None], where: str) -> DataView:
    """The data with new names for its classes, by their old names; None ignores a class. Other classes keep their name.

    Classes with the same name become one, with the colour and category of the first. Names keep the order of their
    first appearance. where: names the setting. Raises ConfigError for an unknown class, and if no class is left.
    """
    for name in class_map:
        if name not in view.class_names:
            near = difflib.get_close_matches(name, view.class_names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(view.class_names)}"
            raise ConfigError(f"{where}: the data has no class {name!r}; {hint}")
    new_names = [class_map.get(name, name) for name in view.class_names]
    names = tuple(dict.fromkeys(name for name in new_names if name is not None))
    if not names:
        raise ConfigError(f"{where}: ignores every class of the data; leave one at least")
    if "" in names:
        raise ConfigError(f"{where}: a class must have a name; null ignores a class")
    if new_names == list(view.class_names):
        return view
    firsts = [new_names.index(name) for name in names]
    return _remapped(
        view,
        [None if name is None else names.index(name) for name in new_names],
        names,
        tuple(view.palette[first] for first in firsts),
        None if view.category_ids is None else tuple(view.category_ids[first] for first in firsts),
        IGNORE_INDEX,
    )


def unknown_classes(view: DataView, names: Sequence[str]) -> list[str]:
    """The data's classes that are not among `names`."""
    return [name for name in view.class_names if name not in names]


def align_classes(
    view: DataView,
    names: tuple[str, ...],
    palette: tuple[Rgb, ...],
    category_ids: tuple[int, ...] | None,
    ignore_index: int,
) -> DataView:
    """The data with the classes `names`, in that order. They must include all of the data's own classes."""
    assert not unknown_classes(view, names)
    if names == view.class_names and ignore_index == view.ignore_index:
        return view
    targets = [names.index(name) for name in view.class_names]
    return _remapped(view, targets, names, palette, category_ids, ignore_index)


def class_id_table(view: DataView, dataset: str | None) -> NDArray[np.uint8] | None:
    """(256,) uint8: the run's class for each id in a data set's shards; None if the ids stay the same."""
    ids = (view.class_ids or {}).get(dataset or ONLY)
    if ids is None:
        return None
    table = np.full(256, view.ignore_index, np.uint8)
    table[: len(ids)] = [view.ignore_index if new == IGNORE_INDEX else new for new in ids]
    return table


def target_classes(view: DataView, dataset: str | None) -> TargetClasses:
    """The classes of a data set's targets: those that it was packed with, and those of the run."""
    return TargetClasses(
        num_classes=view.num_classes,
        ignore_index=view.ignore_index,
        num_packed=num_packed_classes(view, dataset),
        packed_ignore_index=packed_ignore_index(view, dataset),
        new_ids=class_id_table(view, dataset),
    )


def num_packed_classes(view: DataView, dataset: str | None) -> int:
    """Number of classes that a data set was packed with."""
    ids = (view.class_ids or {}).get(dataset or ONLY)
    return view.num_classes if ids is None else len(ids)


def packed_ignore_index(view: DataView, dataset: str | None) -> int:
    """The ignore index that a data set was packed with."""
    return (view.packed_ignore or {}).get(dataset or ONLY, view.ignore_index)


def _remapped(
    view: DataView,
    targets: Sequence[int | None],
    names: tuple[str, ...],
    palette: tuple[Rgb, ...],
    category_ids: tuple[int, ...] | None,
    ignore_index: int,
) -> DataView:
    """targets: new id of every class of the view; None for an ignored class."""
    identity = tuple(range(len(targets)))
    class_ids, packed_ignore = {}, {}
    for dataset in view.mixed or (ONLY,):
        before = (view.class_ids or {}).get(dataset, identity)
        ids = tuple(IGNORE_INDEX if old == IGNORE_INDEX or (new := targets[old]) is None else new for old in before)
        # Classes that are only renamed keep their ids, and there are as many as before.
        changed = ids != tuple(range(len(names))) or view.ignore_index != ignore_index
        if changed or dataset in (view.class_ids or {}):
            class_ids[dataset], packed_ignore[dataset] = ids, packed_ignore_index(view, dataset)
    return replace(
        view,
        class_names=names,
        palette=palette,
        ignore_index=ignore_index,
        category_ids=category_ids,
        class_ids=class_ids or None,
        packed_ignore=packed_ignore or None,
        splits={
            name: _remapped_split(split, targets, len(names), overlaps=view.target_kind.overlaps)
            for name, split in view.splits.items()
        },
    )


def _remapped_split(split: SplitView, targets: Sequence[int | None], num_classes: int, *, overlaps: bool) -> SplitView:
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
    """(shards, classes) sample counts with columns in the order of the new ids.

    Merged classes are not supported: their samples cannot be added up, as a sample may hold both classes.
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
    """Counts by new class, and the total of the ignored classes."""
    sums, ignored = [0] * num_classes, 0
    for count, target in zip(counts, targets, strict=True):
        if target is None:
            ignored += count
        else:
            sums[target] += count
    return tuple(sums), ignored
