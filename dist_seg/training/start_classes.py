"""The classes of a run that starts from a checkpoint, in the order of the checkpoint's weights."""

import logging
from collections.abc import Sequence
from typing import cast

from dist_seg.checkpoint.reading import load_meta
from dist_seg.config.schema import Config
from dist_seg.data.view.data_view import DataView
from dist_seg.data.view.taxonomy import align_classes
from dist_seg.runs.folder import RunFolder, newest_meta

_log = logging.getLogger(__name__)


def start_classes(config: Config, folder: RunFolder, *, fresh: bool) -> tuple[str, ...] | None:
    """The class names of the checkpoint that the run starts from or resumes; None if there is none.

    fresh: the contents of the folder are about to be moved aside.
    """
    match config.checkpoint.resume:
        case "none":
            return None
        case "auto":
            meta = None if fresh else newest_meta(folder.checkpoints)
        case path:
            meta = load_meta(path)
    return None if meta is None else tuple(cast(Sequence[str], meta.manifest["class_names"]))


def in_order_of_start(view: DataView, names: tuple[str, ...], *, log: bool) -> DataView:
    """The data with its classes in the order of `names`, if these are the same classes.

    Other names are allowed, as a new task may start from old weights; `log` says whether to log that. Weights for
    another number of classes are refused when they are loaded.
    """
    if names == view.class_names or len(names) != view.num_classes:
        return view
    if sorted(names) != sorted(view.class_names):
        if log:
            _log.warning(
                "the weights are for the classes %s, the data has %s: they are matched by position, not by name",
                ", ".join(names),
                ", ".join(view.class_names),
            )
        return view
    if log:
        _log.info("classes are in the order of the checkpoint: %s", ", ".join(names))
    old = [view.class_names.index(name) for name in names]
    palette = tuple(view.palette[i] for i in old)
    ids = None if view.category_ids is None else tuple(view.category_ids[i] for i in old)
    return align_classes(view, names, palette, ids, view.ignore_index)
