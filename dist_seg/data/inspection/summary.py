"""Sums up a packed data set: counts, classes, sizes, and a sheet of its pictures."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dist_seg.data.codecs.npy import ArrayLayout
from dist_seg.data.inspection.sheets import sample_sheet
from dist_seg.data.shards.manifest import SIDE_PERCENTILES, Manifest, ObjectCounts, Split
from dist_seg.data.shards.opened import OpenedData
from dist_seg.errors import StorageError, UserError
from dist_seg.masks.palette import Rgb
from dist_seg.runtime.plural import count_of

_NUM_COMMON_SIZES = 5
SHEET_SUFFIXES = (".png", ".jpg", ".jpeg")


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
    """Share of each class among the pixels that have a class; for overlapping labels among all pixels."""
    ignored_pixels: int
    ignored_fraction: float
    """Share of all pixels; for overlapping labels of the pixels of all layers."""
    absent_classes: tuple[str, ...]
    """Classes without any pixel."""
    height_min_median_max: tuple[int, int, int]
    width_min_median_max: tuple[int, int, int]
    num_sizes: int
    common_sizes: tuple[tuple[int, int, int], ...]
    """(height, width, number of images) of the most frequent sizes."""
    objects: ObjectCounts | None
    """Instance data only."""
    objects_per_image: float | None
    """Instance data only: the average number, without crowds."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A summary of the data set's manifest and indexes."""

    url: str
    task: str
    manifest_hash: str
    class_names: tuple[str, ...]
    palette: tuple[Rgb, ...]
    ignore_index: int
    splits: tuple[SplitInspection, ...]
    image: ArrayLayout | None = None
    """Layout of array images; None for pictures."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """Tables for a terminal: the splits, then each class's share of the pixels, or its number of objects."""
        images = f", images of {self.image}" if self.image else ""
        head = f"{self.url}\n{self.task}, {len(self.class_names)} classes{images}, manifest {self.manifest_hash[:12]}"
        splits: list[tuple[str, ...]] = [("split", "images", "skipped", "shards", "size", "ignored", "width x height")]
        splits += [_split_row(split) for split in self.splits]
        tables = [_table(splits, left=1)]
        if any(split.objects for split in self.splits):
            tables.append(_table([_OBJECT_COLUMNS, *(_object_row(split) for split in self.splits)], left=1))
        tables += [_table(self._classes(), left=2), *(text for split in self.splits for text in _remarks(split))]
        return "\n\n".join([head, *tables]) + "\n"

    def _classes(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("id", "class", *(split.name for split in self.splits))]
        for i, name in enumerate(self.class_names):
            rows.append((str(i), name, *(_of_class(split, i) for split in self.splits)))
        return rows


def inspect(
    data: OpenedData,
    *,
    split: str | None = None,
    out_png: Path | None = None,
    num_images: int = 12,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Sum up the data set, or one split of it, from the manifest and the indexes.

    out_png: where to write a contact sheet of `num_images` images of each split, beside their targets. `progress` gets
    the number of shards that are done, and of all. Raises `DataError` for a split that does not exist and, before
    anything is read, `UserError` for a sheet that cannot be written.
    """
    if out_png:
        check_output(out_png, SHEET_SUFFIXES)
        if num_images < 1:
            raise UserError(f"{num_images} images on the contact sheet; give at least 1 (--samples)")
    manifest = data.manifest
    chosen = {split: manifest.split(split)} if split else manifest.splits
    total, done = sum(len(part.shards) for part in chosen.values()), 0
    inspected = []
    for name, part in chosen.items():
        sizes: Counter[tuple[int, int]] = Counter()
        for shard in part.shards:
            sidecar = data.sidecar(shard)
            sizes.update(zip(sidecar.heights.tolist(), sidecar.widths.tolist(), strict=True))
            done += 1
            if progress:
                progress(done, total)
        inspected.append(_inspect_split(name, part, manifest, sizes))
    if out_png:
        sheet = sample_sheet(data, chosen, num_images)
        try:
            sheet.save(out_png)
        except OSError as error:
            raise StorageError(f"{out_png}: cannot be written: {error.strerror or error}") from error
    return Inspection(
        url=data.url,
        task=manifest.task,
        manifest_hash=manifest.hash,
        class_names=manifest.class_names,
        palette=manifest.palette,
        ignore_index=manifest.ignore_index,
        image=manifest.image,
        splits=tuple(inspected),
    )


def check_output(path: Path, suffixes: Sequence[str] = ()) -> None:
    """Raises `UserError` if no file can be written to the path, or if the path ends in none of the given suffixes."""
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")


def _inspect_split(name: str, split: Split, manifest: Manifest, sizes: Counter[tuple[int, int]]) -> SplitInspection:
    valid, pixels_and_layers = sum(split.class_pixels), sum(split.class_pixels) + split.ignored_pixels
    if manifest.target_kind.overlaps:
        valid = sum(height * width * count for (height, width), count in sizes.items())
        pixels_and_layers = valid * manifest.num_classes
    return SplitInspection(
        name=name,
        num_samples=split.num_samples,
        num_shards=len(split.shards),
        bytes=sum(shard.bytes for shard in split.shards),
        skipped_samples=split.skipped_samples,
        class_pixels=split.class_pixels,
        class_fractions=tuple(pixels / max(valid, 1) for pixels in split.class_pixels),
        ignored_pixels=split.ignored_pixels,
        ignored_fraction=split.ignored_pixels / max(pixels_and_layers, 1),
        absent_classes=tuple(
            n for n, pixels in zip(manifest.class_names, split.class_pixels, strict=True) if not pixels
        ),
        height_min_median_max=_spread_of([(height, count) for (height, _), count in sizes.items()]),
        width_min_median_max=_spread_of([(width, count) for (_, width), count in sizes.items()]),
        num_sizes=len(sizes),
        common_sizes=tuple((h, w, count) for (h, w), count in sizes.most_common(_NUM_COMMON_SIZES)),
        objects=split.objects,
        objects_per_image=split.objects.total / max(split.num_samples, 1) if split.objects else None,
    )


def _spread_of(counted: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Least, middle and greatest value of (value, count) pairs; zeros without pairs."""
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


_OBJECT_COLUMNS = ("split", "objects", "crowds", "an image", "at most", "left out", "sides in pixels")


def _object_row(split: SplitInspection) -> tuple[str, ...]:
    counts = split.objects
    assert counts is not None
    sides = ", ".join(f"{side:g} ({p}%)" for p, side in zip(SIDE_PERCENTILES, counts.sides, strict=False)) or "-"
    numbers = (counts.total, counts.crowd_objects, f"{split.objects_per_image:.1f}", counts.max_objects)
    return split.name, *map(str, numbers), str(counts.skipped_annotations), sides


def _of_class(split: SplitInspection, class_id: int) -> str:
    """A class's share of the pixels, or its number of objects."""
    if split.objects is None:
        return _percent(split.class_fractions[class_id])
    return str(split.objects.class_objects[class_id] or "-")


def _remarks(split: SplitInspection) -> list[str]:
    remarks = []
    if split.absent_classes:
        thing = "pixel" if split.objects is None else "object"
        remarks.append(f"no {thing} in {split.name}: {', '.join(split.absent_classes)}")
    if split.objects and split.objects.overfull_objects:
        remarks.append(
            f"{split.name}: {count_of(split.objects.overfull_objects, 'object')} overlapped by more others "
            f"than there are layers; {split.objects.hidden_pixels} of the pixels are only in the exact masks"
        )
    return remarks


def _percent(fraction: float) -> str:
    if 0 < fraction < 0.00005:
        return "<0.01%"
    return f"{100 * fraction:.2f}%" if fraction else "-"


def _table(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Aligned columns: the first `left` to the left, the rest to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
