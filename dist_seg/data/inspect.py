"""What is in a packed data set: counts, classes, sizes, and a sheet of its pictures."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.decode import decode_image, decode_mask
from dist_seg.data.headers import UndecodableError, check_pair
from dist_seg.data.manifest import Manifest, Rgb, ShardInfo, Split, load_manifest
from dist_seg.data.sidecar import Sidecar, crc32c
from dist_seg.drawing import IGNORED_COLOR, colorize, contact_sheet
from dist_seg.errors import DataError, UserError
from dist_seg.runtime.storage import Storage, StorageError, open_storage

_NUM_COMMON_SIZES = 5
_CELL_WIDTH = 240
"""Of a picture on the contact sheet, in pixels."""
_SHEET_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class SplitInspection:
    """One split. Sizes are in pixels."""

    name: str
    num_samples: int
    num_shards: int
    bytes: int
    skipped_samples: int
    class_pixels: tuple[int, ...]
    class_fractions: tuple[float, ...]
    """Of the pixels that have a class."""
    ignored_pixels: int
    ignored_fraction: float
    """Of all pixels."""
    absent_classes: tuple[str, ...]
    """Classes without one pixel."""
    height_min_median_max: tuple[int, int, int]
    width_min_median_max: tuple[int, int, int]
    num_sizes: int
    common_sizes: tuple[tuple[int, int, int], ...]
    """(height, width, images) of the most frequent sizes."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The data set's manifest and indexes, summed up."""

    url: str
    task: str
    manifest_hash: str
    class_names: tuple[str, ...]
    palette: tuple[Rgb, ...]
    ignore_index: int
    splits: tuple[SplitInspection, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """Tables for a terminal: the splits, then the classes' shares of the pixels."""
        head = f"{self.url}\n{self.task}, {len(self.class_names)} classes, manifest {self.manifest_hash[:12]}"
        splits: list[tuple[str, ...]] = [("split", "images", "skipped", "shards", "size", "ignored", "width x height")]
        splits += [_split_row(split) for split in self.splits]
        classes: list[tuple[str, ...]] = [("id", "class", *(split.name for split in self.splits))]
        for i, name in enumerate(self.class_names):
            classes.append((str(i), name, *(_percent(split.class_fractions[i]) for split in self.splits)))
        absent = [
            f"no pixel in {split.name}: {', '.join(split.absent_classes)}"
            for split in self.splits
            if split.absent_classes
        ]
        return "\n\n".join([head, _table(splits, left=1), _table(classes, left=2), *absent]) + "\n"


def inspect(
    root: str | Path,
    *,
    split: str | None = None,
    out_png: Path | None = None,
    num_images: int = 12,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Sum up the data set at a folder or URL, or one split of it, from the manifest and the indexes.

    out_png: where to write a contact sheet of `num_images` images beside their masks, spread over each split.
    `progress` is told shards looked at and in all. Raises `DataError` for a split that is not there and
    `UserError`, before anything is read, for a sheet that cannot be written.
    """
    if out_png:
        check_output(out_png, _SHEET_SUFFIXES)
        if num_images < 1:
            raise UserError(f"{num_images} images on the contact sheet; give at least 1 (--samples)")
    storage = open_storage(root)
    manifest = load_manifest(storage)
    chosen = {split: manifest.split(split)} if split else manifest.splits
    total, done = sum(len(part.shards) for part in chosen.values()), 0
    inspected = []
    for name, part in chosen.items():
        sizes: Counter[tuple[int, int]] = Counter()
        for shard in part.shards:
            sidecar = _sidecar(storage, shard)
            sizes.update(zip(sidecar.heights.tolist(), sidecar.widths.tolist(), strict=True))
            done += 1
            if progress:
                progress(done, total)
        inspected.append(_inspect_split(name, part, manifest.class_names, sizes))
    if out_png:
        sheet = sample_sheet(storage, manifest, chosen, num_images)
        try:
            sheet.save(out_png)
        except OSError as error:
            raise StorageError(f"{out_png}: cannot be written: {error.strerror or error}") from error
    return Inspection(
        url=storage.url,
        task=manifest.task,
        manifest_hash=manifest.hash,
        class_names=manifest.class_names,
        palette=manifest.palette,
        ignore_index=manifest.ignore_index,
        splits=tuple(inspected),
    )


def check_output(path: Path, suffixes: Sequence[str] = ()) -> None:
    """Raises `UserError` where a file, of one of the suffixes if any are given, cannot be written to the path."""
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")


def sample_sheet(storage: Storage, manifest: Manifest, splits: Mapping[str, Split], num_images: int) -> Image.Image:
    """Images beside their masks, `num_images` of each split, evenly spread over it."""
    rows, captions = [], []
    for name, split in splits.items():
        for shard, index in _spread(split.shards, num_images):
            sidecar = _sidecar(storage, shard)
            image, mask = _decoded(storage, shard, sidecar, index)
            # Shrunk here, or the sheet would have to hold every picture at its full size.
            rows.append([_shrunk(image), _shrunk(colorize(mask, manifest.palette, manifest.ignore_index))])
            captions.append(f"{name}  {sidecar.key(index)}  {sidecar.width(index)}x{sidecar.height(index)}")
    legend = [*zip(manifest.class_names, manifest.palette, strict=True), ("ignored", IGNORED_COLOR)]
    title = f"{storage.url}: " + ", ".join(f"{split.num_samples} {name}" for name, split in splits.items())
    return contact_sheet(rows, captions, legend=legend, title=title, cell_width=_CELL_WIDTH, columns=2)


def _spread(shards: Sequence[ShardInfo], count: int) -> list[tuple[ShardInfo, int]]:
    """`count` samples at equal distances over all shards, as (shard, index in it)."""
    ends = np.cumsum([shard.samples for shard in shards])
    total = int(ends[-1]) if len(ends) else 0
    positions = np.unique(np.arange(count) * total // count) if total else np.zeros(0, np.int64)
    numbers = np.searchsorted(ends, positions, side="right")
    return [(shards[n], int(p - ends[n] + shards[n].samples)) for n, p in zip(numbers, positions, strict=True)]


def _decoded(
    storage: Storage, shard: ShardInfo, sidecar: Sidecar, index: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (H, W, 3) and mask (H, W)."""
    members = [sidecar.member(index, role) for role in ("image", "target")]
    image, mask = (storage.read_range(shard.name, member.offset, member.length) for member in members)
    for member, data in zip(members, (image, mask), strict=True):
        if crc32c(data) != member.crc32c:
            raise DataError(f"{storage.url}/{shard.name}: {sidecar.key(index)}.{member.suffix} is damaged; run verify")
    try:
        check_pair(image, mask, sidecar.height(index), sidecar.width(index))
        return decode_image(image), decode_mask(mask)
    except UndecodableError as error:
        raise DataError(
            f"{storage.url}/{shard.name}: sample {sidecar.key(index)} cannot be decoded: {error}; pack the data again"
        ) from error


def _shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3), to what a cell of the sheet can hold."""
    factor = min(1.0, _CELL_WIDTH / max(picture.shape[:2]))
    if factor == 1.0:
        return picture
    height, width = (max(1, round(length * factor)) for length in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def _sidecar(storage: Storage, shard: ShardInfo) -> Sidecar:
    return Sidecar.parse(storage.read(shard.sidecar_name), f"{storage.url}/{shard.sidecar_name}")


def _inspect_split(
    name: str, split: Split, class_names: Sequence[str], sizes: Counter[tuple[int, int]]
) -> SplitInspection:
    valid = sum(split.class_pixels)
    return SplitInspection(
        name=name,
        num_samples=split.num_samples,
        num_shards=len(split.shards),
        bytes=sum(shard.bytes for shard in split.shards),
        skipped_samples=split.skipped_samples,
        class_pixels=split.class_pixels,
        class_fractions=tuple(pixels / max(valid, 1) for pixels in split.class_pixels),
        ignored_pixels=split.ignored_pixels,
        ignored_fraction=split.ignored_pixels / max(valid + split.ignored_pixels, 1),
        absent_classes=tuple(n for n, pixels in zip(class_names, split.class_pixels, strict=True) if not pixels),
        height_min_median_max=_spread_of([(height, count) for (height, _), count in sizes.items()]),
        width_min_median_max=_spread_of([(width, count) for (_, width), count in sizes.items()]),
        num_sizes=len(sizes),
        common_sizes=tuple((h, w, count) for (h, w), count in sizes.most_common(_NUM_COMMON_SIZES)),
    )


def _spread_of(counted: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Least, middle and greatest of (value, how often) pairs; zeros for none."""
    if not counted:
        return 0, 0, 0
    ordered = sorted(counted)
    ends = np.cumsum([count for _, count in ordered])
    middle = ordered[int(np.searchsorted(ends, int(ends[-1]) // 2, side="right"))][0]
    return ordered[0][0], middle, ordered[-1][0]


def _split_row(split: SplitInspection) -> tuple[str, ...]:
    (low_h, _, high_h), (low_w, _, high_w) = split.height_min_median_max, split.width_min_median_max
    size = f"{low_w} x {low_h}"
    if split.num_sizes > 1:
        size += f" to {high_w} x {high_h}, {split.num_sizes} sizes"
    counts = (split.num_samples, split.skipped_samples, split.num_shards)
    return split.name, *map(str, counts), f"{split.bytes / 2**20:.1f} MiB", _percent(split.ignored_fraction), size


def _percent(fraction: float) -> str:
    if 0 < fraction < 0.00005:
        return "<0.01%"
    return f"{100 * fraction:.2f}%" if fraction else "-"


def _table(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Columns set flush, the first `left` of them to the left and the rest to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
