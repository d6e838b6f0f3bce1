"""The classes that a task is about, from a data set or a checkpoint."""

from dataclasses import dataclass

from dist_seg.data.view.data_view import DataView
from dist_seg.data.view.taxonomy import align_classes


@dataclass(frozen=True, kw_only=True)
class ClassInfo:
    """What a model must know of its data's classes; kept in every checkpoint."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    category_ids: tuple[int, ...] | None = None
    """Of instances: each class's id in results in COCO's format."""


def class_info(view: DataView) -> ClassInfo:
    return ClassInfo(
        names=view.class_names,
        palette=view.palette,
        ignore_index=view.ignore_index,
        category_ids=view.category_ids,
    )


def with_classes(view: DataView, classes: ClassInfo) -> DataView:
    """The data with a model's classes in the model's order. It may lack some; it must not have others."""
    return align_classes(view, classes.names, classes.palette, classes.category_ids, classes.ignore_index)


def manifest_meta(view: DataView) -> dict[str, object]:
    """What a checkpoint keeps of the training data's view."""
    return {
        "hash": view.hash,
        "task": view.task,
        "class_names": list(view.class_names),
        "palette": [list(color) for color in view.palette],
        "ignore_index": view.ignore_index,
        **({} if view.category_ids is None else {"category_ids": list(view.category_ids)}),
    }
