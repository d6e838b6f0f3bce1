"""The classes that a task is about, from a data set or a checkpoint."""

from dataclasses import dataclass

from dist_seg.data.shards.manifest import Manifest
from dist_seg.data.view.taxonomy import align_classes


@dataclass(frozen=True, kw_only=True)
class ClassInfo:
    """What a model must know of its data's classes; kept in every checkpoint."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    category_ids: tuple[int, ...] | None = None
    """Of instances: each class's id in results in COCO's format."""


def class_info(manifest: Manifest) -> ClassInfo:
    return ClassInfo(
        names=manifest.class_names,
        palette=manifest.palette,
        ignore_index=manifest.ignore_index,
        category_ids=manifest.category_ids,
    )


def with_classes(manifest: Manifest, classes: ClassInfo) -> Manifest:
    """The data with a model's classes in the model's order. It may lack some; it must not have others."""
    return align_classes(manifest, classes.names, classes.palette, classes.category_ids, classes.ignore_index)


def manifest_meta(manifest: Manifest) -> dict[str, object]:
    """What a checkpoint keeps of the training data's manifest."""
    return {
        "hash": manifest.hash,
        "task": manifest.task,
        "class_names": list(manifest.class_names),
        "palette": [list(color) for color in manifest.palette],
        "ignore_index": manifest.ignore_index,
        **({} if manifest.category_ids is None else {"category_ids": list(manifest.category_ids)}),
    }
