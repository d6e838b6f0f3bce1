"""A sheet of what was found: suspects beside their masks, pairs side by side, each with the reason."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.inspection.findings import Example, Finding, Severity
from dist_seg.data.inspection.sample_sheet import CELL_WIDTH, draw_sample
from dist_seg.data.inspection.trouble import Trouble
from dist_seg.data.shards.opened import OpenedData
from dist_seg.errors import StorageError
from dist_seg.masks.drawing import contact_sheet
from dist_seg.masks.palette import IGNORED_COLOR

_OF_ONE_FINDING = {Severity.ERROR: 12, Severity.WARNING: 8, Severity.NOTE: 4}
_IN_ALL = 80
_CANNOT_BE_DRAWN = "unreadable"


def save_suspects(data: OpenedData, trouble: Trouble, path: Path) -> bool:
    """Draw the sheet of the data set; False where there is nothing to draw, and no file.

    Raises `StorageError` where it cannot be written.
    """
    sheet = suspect_sheet(data, trouble.findings)
    if sheet is None:
        return False
    try:
        sheet.save(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
    return True


def suspect_sheet(data: OpenedData, findings: Sequence[Finding]) -> Image.Image | None:
    """The first few examples of every finding, the worst finding first; None where there is nothing to draw."""
    chosen = [
        (finding, example)
        for finding in findings
        if finding.kind != _CANNOT_BE_DRAWN
        for example in finding.examples[: _OF_ONE_FINDING[finding.severity]]
    ][:_IN_ALL]
    if not chosen:
        return None
    rows = [_pictures(data, example) for _, example in chosen]
    captions = [_caption(finding, example) for finding, example in chosen]
    manifest = data.manifest
    legend = list(zip(manifest.class_names, manifest.palette, strict=True)) if manifest.task == "semantic" else []
    return contact_sheet(
        rows,
        captions,
        legend=[*legend, ("ignored", IGNORED_COLOR)] if legend else (),
        title=f"{data.url}: suspects",
        cell_width=CELL_WIDTH,
        columns=2,
    )


def _pictures(data: OpenedData, example: Example) -> list[NDArray[np.uint8]]:
    """Image and mask of one sample, the images of two."""
    drawn = [
        draw_sample(data, place.split, data.manifest.split(place.split).shards[place.shard], place.index)
        for place in example.places
    ]
    if len(drawn) == 1:
        return list(drawn[0].pictures)
    return [sample.pictures[0] for sample in drawn]


def _caption(finding: Finding, example: Example) -> str:
    mark = "" if finding.severity == Severity.NOTE else f"{finding.severity.name.lower()}: "
    return f"{mark}{finding.kind.replace('_', ' ')}  {example}"
