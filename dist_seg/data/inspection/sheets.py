"""Sheets of a packed data set's pictures: images beside their targets, or what was found suspicious."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.codecs.encoded import DrawnTarget
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.inspection.findings import Example, Finding, Severity
from dist_seg.data.inspection.samples.decoded import packed_sample, picture_of, read_members
from dist_seg.data.inspection.trouble import Trouble
from dist_seg.data.shards.counts import spread_samples
from dist_seg.data.shards.manifest import Manifest, ShardInfo, Split
from dist_seg.data.shards.opened import OpenedData
from dist_seg.errors import DataError, StorageError
from dist_seg.masks.drawing import contact_sheet
from dist_seg.masks.palette import Rgb

CELL_WIDTH = 240
"""Width of a picture on a sheet, in pixels."""
_OF_ONE_FINDING = {Severity.ERROR: 12, Severity.WARNING: 8, Severity.NOTE: 4}
_IN_ALL = 80
_CANNOT_BE_DRAWN = "unreadable"


def sample_sheet(data: OpenedData, splits: Mapping[str, Split], num_images: int) -> Image.Image:
    """Images beside their targets: `num_images` of each split, evenly spread over it.

    Samples that are damaged or cannot be decoded are left out, and the title says how many.
    """
    rows, left_out = [], 0
    for name, split in splits.items():
        for number, index in zip(*spread_samples(split.shard_samples, num_images), strict=True):
            try:
                rows.append(draw_sample(data, name, split.shards[number], int(index)))
            except DataError:
                left_out += 1
    title = f"{data.url}: " + ", ".join(f"{split.num_samples} {name}" for name, split in splits.items())
    if left_out:
        title += f"; {left_out} that cannot be drawn {'is' if left_out == 1 else 'are'} left out"
    if how := data.manifest.target_kind.drawn_how:
        title += f"; {how}"
    return contact_sheet(
        [(row.image, row.target.picture) for row in rows],
        [row.caption for row in rows],
        legend=sheet_legend(data.manifest, rows),
        title=title,
        cell_width=CELL_WIDTH,
        columns=2,
    )


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """A sample on a sheet."""

    caption: str
    image: NDArray[np.uint8]
    """(h, w, 3), small."""
    target: DrawnTarget


def draw_sample(data: OpenedData, split: str, shard: ShardInfo, index: int) -> SheetRow:
    """A sample's image and target. They are shrunk here, so that a sheet need not hold them at full size.

    Raises `DataError` for one that is damaged or cannot be decoded.
    """
    manifest, sidecar = data.manifest, data.sidecar(shard)
    key, height, width = sidecar.key(index), sidecar.height(index), sidecar.width(index)
    members = read_members(data.storage, shard, sidecar, index)
    try:
        sample = packed_sample(members, manifest, key, height, width)
        picture = picture_of(sample, manifest)
        target = sample.kind.draw(sample, picture, manifest.palette, _shrunk)
    except UndecodableError as error:
        raise DataError(
            f"{data.url}/{shard.name}: sample {key} cannot be decoded: {error}; pack the data again"
        ) from error
    caption = "  ".join([split, key, f"{width}x{height}", *filter(None, [target.remark])])
    return SheetRow(caption=caption, image=_shrunk(picture), target=target)


def sheet_legend(manifest: Manifest, rows: Sequence[SheetRow]) -> Sequence[tuple[str, Rgb]]:
    """The names of the colours in the rows' targets."""
    classes = list(zip(manifest.class_names, manifest.palette, strict=True))
    return manifest.target_kind.legend(classes, [row.target for row in rows])


def _shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture (H, W, 3), small enough for a cell of the sheet."""
    factor = min(1.0, CELL_WIDTH / max(picture.shape[:2]))
    if factor == 1.0:
        return picture
    height, width = (max(1, round(length * factor)) for length in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def save_suspects(data: OpenedData, trouble: Trouble, path: Path) -> bool:
    """Draw a sheet of the findings' examples. False, and no file, if there is nothing to draw.

    Raises `StorageError` if the sheet cannot be written.
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
    """The first few examples of every finding, the worst finding first; None if there is nothing to draw."""
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
    """The image and target of one sample, or the images of two."""
    if len(rows) == 1:
        return [rows[0].image, rows[0].target.picture]
    return [row.image for row in rows]


def _caption(finding: Finding, example: Example) -> str:
    mark = "" if finding.severity == Severity.NOTE else f"{finding.severity.name.lower()}: "
    return f"{mark}{finding.kind.replace('_', ' ')}  {example}"
