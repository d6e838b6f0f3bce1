"""The classes of masks in Pascal VOC's layout: those of VOC, of a tool's `labelmap.txt`, or of a list of names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.raw.classes import IGNORED_NAMES, ClassTable, read_classes, text_lines
from dist_seg.data.raw.images import read_mask
from dist_seg.data.raw.palettes import IndexColors
from dist_seg.data.raw.source import check_classes
from dist_seg.errors import DataError
from dist_seg.masks.palette import Rgb

VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_IGNORED_NAMES = IGNORED_NAMES | {"ignored"}  # Datumaro's name for VOC's void
_LABEL = re.compile(r"(?P<name>[^:]+):\s*(?P<color>\d+\s*,\s*\d+\s*,\s*\d+|)\s*(:[^:]*){0,2}")


@dataclass(frozen=True, kw_only=True)
class VocClasses:
    """How numbers and colours in masks become class ids."""

    numbers: ClassTable
    colors: ClassTable | None
    """For masks in colours. None refuses such masks."""
    palette_by_colors: bool
    """Masks with a palette are read by its colours instead of their indices."""
    index_colors: IndexColors = field(default_factory=IndexColors)
    """For masks that are read by their palette indices."""

    @property
    def version(self) -> str:
        """Changes when the class ids of a mask may change."""
        colors = self.colors.version if self.colors else ""
        return f"{self.numbers.version} {colors} {self.palette_by_colors} {self.index_colors.version}".rstrip()

    def class_ids(self, mask_file: bytes, where: str, max_pixels: int) -> NDArray[np.uint8]:
        """(H, W). Raises `DataError` naming `where`, a number or colour without a class, and its position."""
        mask = read_mask(mask_file, where, max_pixels)
        if mask.is_color and self.colors is None:
            red, green, blue = (int(part) for part in mask.values[0, 0])
            raise DataError(
                f"{where}: a mask in colours, ({red}, {green}, {blue}) at (x=0, y=0), but the classes have no colours; "
                "give a labelmap.txt with lines 'name:R,G,B::' (--classes)"
            )
        by_colors = mask.is_color or (mask.palette is not None and self.palette_by_colors)
        table = self.colors if by_colors and self.colors else self.numbers
        if not by_colors:
            self.index_colors.check(mask, where)
        return table.class_ids(mask, where)


def voc_colors(count: int) -> tuple[Rgb, ...]:
    """The colours of the numbers below `count`, as in VOC's development kit.

    Every three bits of a number, from the lowest up, are one bit of red, green and blue, from the highest down.
    """
    colors = np.zeros((count, 3), np.int64)
    numbers = np.arange(count)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (numbers >> (3 * bit + channel) & 1) << (7 - bit)
    return tuple((red, green, blue) for red, green, blue in colors.tolist())


def voc_classes() -> VocClasses:
    """The 21 classes of Pascal VOC. 255, which outlines objects, is ignored."""
    colors = voc_colors(256)
    numbers = ClassTable(
        names=VOC_NAMES,
        palette=colors[: len(VOC_NAMES)],
        values={**{i: i for i in range(len(VOC_NAMES))}, IGNORE_INDEX: IGNORE_INDEX},
    )
    return VocClasses(
        numbers=numbers,
        colors=_by_color(numbers, colors),
        palette_by_colors=False,
        index_colors=IndexColors(
            colors={number: colors[number] for number in numbers.values},
            sources=dict.fromkeys(numbers.values, "Pascal VOC's"),
            advice="if these are not VOC's classes, give yours (--classes): a label map with lines 'name:R,G,B::' if "
            "palettes differ, or names alone if all masks have the same palette",
        ),
    )


def read_voc_classes(path: Path) -> VocClasses:
    """The classes in a label map or a list of names.

    Lines of a label map are `name:R,G,B:parts:actions`, as labelling tools write them. Masks are then read
    by their colours, and grey masks by the numbers of the lines. If no line has a colour, the colours are VOC's. Pixels
    of a class called `ignore`, `ignored` or `void` are ignored. For a list of names see `read_classes`. Raises
    `DataError` naming file and line.
    """
    lines = text_lines(path)
    matches = [_LABEL.fullmatch(text) for _, text in lines]
    if not any(matches):
        return VocClasses(numbers=read_classes(path), colors=None, palette_by_colors=False)
    for (line, text), match in zip(lines, matches, strict=True):
        if match is None:
            raise DataError(f"{path}:{line}: {text!r}; write 'name:R,G,B::'")
    names = [match["name"].strip() for match in matches if match]
    written = [match["color"].strip() for match in matches if match]
    colors = voc_colors(len(lines)) if not any(written) else _read_colors(path, lines, written)
    ids = _class_ids(names)
    kept = [i for i, class_id in enumerate(ids) if class_id != IGNORE_INDEX]
    check_classes([names[i] for i in kept], str(path))
    numbers = ClassTable(
        names=tuple(names[i] for i in kept),
        palette=tuple(colors[i] for i in kept),
        values={IGNORE_INDEX: IGNORE_INDEX, **dict(enumerate(ids))},
    )
    by_color = replace(numbers, colors=dict(zip(colors, ids, strict=True)), color_line="'name:R,G,B::'")
    return VocClasses(numbers=numbers, colors=by_color, palette_by_colors=True)


def _by_color(numbers: ClassTable, colors: Sequence[Rgb]) -> ClassTable:
    return replace(
        numbers,
        colors={colors[number]: class_id for number, class_id in numbers.values.items()},
        color_line="'name:R,G,B::' in a labelmap.txt (--classes)",
    )


def _class_ids(names: Sequence[str]) -> list[int]:
    ids: list[int] = []
    next_id = 0
    for name in names:
        ignored = name.lower() in _IGNORED_NAMES
        ids.append(IGNORE_INDEX if ignored else next_id)
        next_id += not ignored
    return ids


def _read_colors(path: Path, lines: Sequence[tuple[int, str]], written: Sequence[str]) -> tuple[Rgb, ...]:
    colors: list[Rgb] = []
    for (line, text), color in zip(lines, written, strict=True):
        parts = [int(part) for part in color.split(",") if part]
        if len(parts) != 3 or max(parts) > 255:
            raise DataError(f"{path}:{line}: {text!r}; write 'name:R,G,B::' with numbers from 0 to 255")
        red, green, blue = parts
        if (red, green, blue) in colors:
            raise DataError(f"{path}:{line}: colour {red},{green},{blue} is listed twice")
        colors.append((red, green, blue))
    return tuple(colors)
