"""A sheet of a packed data set's pictures: images beside their masks, or beside their objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.codecs.annotations import MAX_LAYERS, ImageAnnotations, check_annotations, parse_annotations
from dist_seg.data.codecs.class_ids import decode_mask
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.label_layers import PRESENT, decode_labels
from dist_seg.data.codecs.npy import check_members
from dist_seg.data.inspection.samples.decoded import picture_of, read_members
from dist_seg.data.shards.manifest import ShardInfo, Split
from dist_seg.data.shards.opened import OpenedData
from dist_seg.errors import DataError
from dist_seg.masks.drawing import colorize, contact_sheet, overlay_labels
from dist_seg.masks.palette import IGNORED_COLOR, Rgb, default_palette
from dist_seg.masks.rle import decode_mask as decode_run_lengths

CELL_WIDTH = 240
"""Of a picture on the sheet, in pixels."""
_OBJECT_COLORS = default_palette(64)[1:]
"""Neighbours in the list are told apart."""
_CROWD_COLOR: Rgb = (255, 255, 255)
_HATCH = 6
"""Pixels from one line over a crowd to the next."""
_FILL = 0.5


def sample_sheet(data: OpenedData, splits: Mapping[str, Split], num_images: int) -> Image.Image:
    """Images beside their masks or objects, `num_images` of each split, evenly spread over it.

    Those that are damaged or cannot be decoded are left out, and the title says how many.
    """
    manifest = data.manifest
    shown, left_out = [], 0
    for name, split in splits.items():
        for shard, index in _spread(split.shards, num_images):
            try:
                shown.append(draw_sample(data, name, shard, index))
            except DataError:
                left_out += 1
    title = f"{data.url}: " + ", ".join(f"{split.num_samples} {name}" for name, split in splits.items())
    if left_out:
        title += f"; {left_out} that cannot be drawn are left out"
    legend = list(zip(manifest.class_names, manifest.palette, strict=True))
    if manifest.task == "instance":  # of the classes only those that are to be seen: COCO has 80
        drawn_classes = sorted(set[int]().union(*(sample.classes for sample in shown)))
        legend = [*(legend[class_id] for class_id in drawn_classes), ("crowd", _CROWD_COLOR)]
        title += "; outlined by class"
    elif manifest.task == "semantic":
        legend.append(("ignored", IGNORED_COLOR))
    rows, captions = [sample.pictures for sample in shown], [sample.caption for sample in shown]
    return contact_sheet(rows, captions, legend=legend, title=title, cell_width=CELL_WIDTH, columns=2)


def draw_annotations(
    picture: NDArray[np.uint8], annotations: ImageAnnotations, palette: Sequence[Rgb]
) -> NDArray[np.uint8]:
    """The picture, (h, w, 3), of the image at any scale, with its objects: each filled in a colour of its own and
    outlined in its class's, crowds hatched in white.

    Raises `UndecodableError` for a mask that does not fit the image.
    """
    height, width = picture.shape[:2]
    rows = (np.arange(height) + 0.5) * annotations.height // height
    columns = (np.arange(width) + 0.5) * annotations.width // width
    at = np.ix_(rows.astype(np.intp), columns.astype(np.intp))
    lines = np.add.outer(np.arange(height), np.arange(width)) % _HATCH == 0
    drawn, outlines = picture.astype(np.float32), []
    # The small ones last, or what lies on a large one would vanish under its outline.
    for i, found in sorted(enumerate(annotations.objects), key=lambda numbered: -numbered[1].pixels):
        try:
            mask = decode_run_lengths(found.rle, annotations.height, annotations.width)[at]
        except ValueError as error:
            raise UndecodableError(f"json: the mask of object {found.id}: {error}") from error
        filled = mask & lines if found.crowd else mask
        color = _CROWD_COLOR if found.crowd else _OBJECT_COLORS[i % len(_OBJECT_COLORS)]
        drawn[filled] = (1 - _FILL) * drawn[filled] + _FILL * np.asarray(color, np.float32)
        outlines.append((mask & ~_eroded(mask), _CROWD_COLOR if found.crowd else palette[found.class_id]))
    for outline, color in outlines:  # over every filling
        drawn[outline] = color
    return np.rint(drawn).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class DrawnSample:
    """A sample on the sheet."""

    caption: str
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    classes: frozenset[int] = frozenset()
    """Of its objects."""


def draw_sample(data: OpenedData, split: str, shard: ShardInfo, index: int) -> DrawnSample:
    """A sample's image and mask, shrunk here, or a sheet would have to hold every one at its full size.

    Raises `DataError` for one that is damaged or cannot be decoded.
    """
    manifest, sidecar = data.manifest, data.index(shard)
    key, height, width = sidecar.key(index), sidecar.height(index), sidecar.width(index)
    caption = f"{split}  {key}  {width}x{height}"
    encoded, target, *others = read_members(data.storage, shard, sidecar, index)
    layers = MAX_LAYERS if others else 0
    try:
        num_labels = manifest.num_classes if manifest.task == "multilabel" else 0
        check_members(encoded, target, height, width, array=manifest.image, max_layers=layers, num_labels=num_labels)
        whole = picture_of(encoded, manifest, height, width)
        if num_labels:
            labels = decode_labels(target, num_labels) == PRESENT
            drawn = np.asarray(overlay_labels(whole, labels, manifest.palette))
            return DrawnSample(caption=caption, pictures=(_shrunk(whole), _shrunk(drawn)))
        image = _shrunk(whole)
        if not others:
            mask = _shrunk(colorize(decode_mask(target), manifest.palette, manifest.ignore_index))
            return DrawnSample(caption=caption, pictures=(image, mask))
        annotations = parse_annotations(others[0])
        check_annotations(annotations, height, width)
        return DrawnSample(
            caption=f"{caption}  {len(annotations.objects)} objects",
            pictures=(image, draw_annotations(image, annotations, manifest.palette)),
            classes=frozenset(found.class_id for found in annotations.objects),
        )
    except UndecodableError as error:
        raise DataError(
            f"{data.url}/{shard.name}: sample {key} cannot be decoded: {error}; pack the data again"
        ) from error


def _spread(shards: Sequence[ShardInfo], count: int) -> list[tuple[ShardInfo, int]]:
    """`count` samples at equal distances over all shards, as (shard, index in it)."""
    ends = np.cumsum([shard.samples for shard in shards])
    total = int(ends[-1]) if len(ends) else 0
    positions = np.unique(np.arange(count) * total // count) if total else np.zeros(0, np.int64)
    numbers = np.searchsorted(ends, positions, side="right")
    return [(shards[n], int(p - ends[n] + shards[n].samples)) for n, p in zip(numbers, positions, strict=True)]


def _shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3), to what a cell of the sheet can hold."""
    factor = min(1.0, CELL_WIDTH / max(picture.shape[:2]))
    if factor == 1.0:
        return picture
    height, width = (max(1, round(length * factor)) for length in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels whose four neighbours are in the mask as well; outside the picture counts as in it."""
    padded = np.pad(mask, 1, mode="edge")
    inner: NDArray[np.bool_] = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner
