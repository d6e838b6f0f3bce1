"""A sheet of what was found: suspects beside their masks, pairs side by side, each with the reason."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.inspection.findings import Example, Finding, Severity
from dist_seg.data.inspection.sample_sheet import CELL_WIDTH, SheetRow, draw_sample, sheet_legend
from dist_seg.data.inspection.trouble import Trouble
from dist_seg.data.shards.opened import OpenedData
from dist_seg.errors import StorageError
from dist_seg.masks.drawing import contact_sheet

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
    drawn = [_drawn(data, example) for _, example in chosen]
    return contact_sheet(
        [_pictures(rows) for rows in drawn],
        [_caption(finding, example) for finding, example in chosen],
        legend=sheet_legend(data.manifest, [rows[0] for rows in drawn if len(rows) == 1]),
        title=f"{data.url}: suspects",
        cell_width=CELL_WIDTH,
        columns=2,
    )


def _drawn(data: OpenedData, example: Example) -> list[SheetRow]:
    return [
        draw_sample(data, place.split, data.manifest.split(place.split).shards[place.shard], place.index)
        for place in example.places
    ]


def _pictures(rows: Sequence[SheetRow]) -> list[NDArray[np.uint8]]:
    """Image and mask of one sample, the images of two."""
    if len(rows) == 1:
        return [rows[0].image, rows[0].target.picture]
    return [row.image for row in rows]


def _caption(finding: Finding, example: Example) -> str:
    mark = "" if finding.severity == Severity.NOTE else f"{finding.severity.name.lower()}: "
    return f"{mark}{finding.kind.replace('_', ' ')}  {example}"
