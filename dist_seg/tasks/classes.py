"""The classes of a task, taken from a data set or a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass

from dist_seg.data.view.data_view import DataView
from dist_seg.data.view.taxonomy import align_classes
from dist_seg.errors import CheckpointError
from dist_seg.runtime.documents import convert


@dataclass(frozen=True, kw_only=True)
class ClassInfo:
    """The classes that a model predicts; every checkpoint keeps them."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    category_ids: tuple[int, ...] | None = None
    """Instances only: the id of each class in COCO's results; None to number the classes from 1."""


def class_info(view: DataView) -> ClassInfo:
    """The classes of a run's data."""
    return ClassInfo(
        names=view.class_names,
        palette=view.palette,
        ignore_index=view.ignore_index,
        category_ids=view.category_ids,
    )


@dataclass(frozen=True, kw_only=True)
class _StoredClasses:
    """The part of `manifest_meta` that describes classes."""

    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    category_ids: tuple[int, ...] | None = None


def stored_class_info(manifest: Mapping[str, object], where: str) -> ClassInfo:
    """The classes in what `manifest_meta` made. Raises CheckpointError, which names `where`, if a field is wrong."""
    stored = convert(dict(manifest), _StoredClasses, where, error=CheckpointError)
    return ClassInfo(
        names=stored.class_names,
        palette=stored.palette,
        ignore_index=stored.ignore_index,
        category_ids=stored.category_ids,
    )


def with_classes(view: DataView, classes: ClassInfo) -> DataView:
    """The data with its classes in a model's order. It may lack some of them, but must not have other classes."""
    return align_classes(view, classes.names, classes.palette, classes.category_ids, classes.ignore_index)


def manifest_meta(view: DataView) -> dict[str, object]:
    """What a checkpoint records about the training data; JSON-ready."""
    return {
        "hash": view.hash,
        "task": view.task,
        "class_names": list(view.class_names),
        "palette": [list(color) for color in view.palette],
        "ignore_index": view.ignore_index,
        **({} if view.category_ids is None else {"category_ids": list(view.category_ids)}),
    }
