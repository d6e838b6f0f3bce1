"""From the numbers or colours in a mask file to class ids: by `classes.txt`, `colors.txt`, or the masks themselves.

Class ids are 0, 1, 2, ... in the order of the classes, whatever numbers the masks hold.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.png import value_counts
from dist_seg.data.raw.images import RawMask
from dist_seg.data.raw.meaning import Meaning
from dist_seg.data.raw.source import check_classes
from dist_seg.errors import DataError
from dist_seg.masks.palette import Rgb, default_palette

IGNORED_NAMES = frozenset({"ignore", "void"})
"""Pixels of a class with one of these names, in upper or lower case, are ignored."""

_NUMBERED = re.compile(r"(\d+)[\s:,;]+(\S.*)")
_NUMBER_LAST = re.compile(r".*\S\s*[,;:\t]\s*\d+")
_COLORED = re.compile(r"(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s:,;]+(\S.*)")
_COMMENT = re.compile(r"(^|\s)#.*")
_MAX_VALUE = 65535


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """The classes, and the class of each number or colour in masks."""

    names: tuple[str, ...]
    palette: tuple[Rgb, ...]
    values: Mapping[int, int]
    """Class id, or the ignore index, of every number that masks may hold."""
    colors: Mapping[Rgb, int] | None = None
    """The same for colours. If it is given, masks are read as colours."""
    numbered: bool = field(default=False, repr=False)
    """The user gave the numbers, so nothing is guessed about them."""
    color_line: str = field(default="'R G B name'", repr=False)
    """The form of a line that names a colour, for error messages."""
    grey_only: bool = field(default=False, repr=False)
    """RGB masks are refused, even if all their colours are greys."""

    @property
    def version(self) -> str:
        """Changes when the class ids of a mask may change, for `SampleRef.version`."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    @property
    def meaning(self) -> Meaning:
        """What the numbers or colours mean, for the record of packing."""
        if self.colors is not None:
            return {"colour": {"{} {} {}".format(*color): self._name(i) for color, i in self.colors.items()}}
        return {"number": {str(number): self._name(i) for number, i in self.values.items()}}

    @property
    def is_unnumbered_pair(self) -> bool:
        """Whether there are two classes without numbers: the masks may be black and white, 0 and 255."""
        return not self.numbered and self.values == {0: 0, 1: 1, IGNORE_INDEX: IGNORE_INDEX}

    def class_ids(self, mask: RawMask, where: str) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises `DataError` naming a value or colour without a class, and its position."""
        if self.colors is not None:
            return self._from_colors(_as_colors(mask, where), where, self.colors)
        if self.grey_only and mask.is_color:
            red, green, blue = (int(part) for part in mask.values[0, 0])
            raise DataError(
                f"{where}: in colours, ({red}, {green}, {blue}) at (x=0, y=0); class ids must be grey values"
            )
        numbers = grey_values(mask, where)
        table = np.full(_MAX_VALUE + 1, -1, np.int16)
        table[list(self.values)] = list(self.values.values())
        if numbers.dtype == np.uint8:
            present = np.flatnonzero(value_counts(numbers))
            if np.array_equal(table[present], present):  # the numbers are the class ids
                return np.asarray(numbers, np.uint8)
            if not (table[present] < 0).any():
                return np.take(table[:256].astype(np.uint8), numbers)
        in_range = (numbers >= 0) & (numbers <= _MAX_VALUE)
        found = np.where(in_range, table[np.where(in_range, numbers, 0)], -1)
        if (wrong := found < 0).any():
            y, x = np.unravel_index(int(wrong.argmax()), wrong.shape)
            raise DataError(
                f"{where}: class id {numbers[y, x]} at (x={x}, y={y}) ({int(wrong.sum())} such pixels); "
                f"the classes are {self._described()}"
            )
        return found.astype(np.uint8)

    def _from_colors(self, colors: NDArray[np.uint8], where: str, known: Mapping[Rgb, int]) -> NDArray[np.uint8]:
        codes = np.sort(np.array([_code(color) for color in known], np.int32))
        by_code = {_code(color): class_id for color, class_id in known.items()}
        ids = np.array([by_code[int(code)] for code in codes], np.uint8)
        wide = colors.astype(np.int32)
        pixels = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
        at = np.minimum(np.searchsorted(codes, pixels), len(codes) - 1)
        if (wrong := codes[at] != pixels).any():
            y, x = np.unravel_index(int(wrong.argmax()), wrong.shape)
            red, green, blue = (int(part) for part in colors[y, x])
            raise DataError(
                f"{where}: colour ({red}, {green}, {blue}) at (x={x}, y={y}) is not in the colour map "
                f"({int(wrong.sum())} such pixels); add a line {self.color_line}, with the name 'ignore' to leave "
                "such pixels out"
            )
        return np.asarray(ids[at])

    def _name(self, class_id: int) -> str | None:
        return None if class_id == IGNORE_INDEX else self.names[class_id]

    def _described(self) -> str:
        numbered = [f"{value} {self.names[i]}" for value, i in sorted(self.values.items()) if i != IGNORE_INDEX]
        ignored = [str(value) for value, i in sorted(self.values.items()) if i == IGNORE_INDEX]
        shown = numbered if len(numbered) <= 8 else [*numbered[:4], "...", numbered[-1]]
        return ", ".join(shown) + (f"; ignored: {', '.join(ignored)}" if ignored else "")


def read_classes(path: Path) -> ClassTable:
    """The classes in a text file: each line is a name, or a number and a name. `#` begins a comment.

    Without numbers the lines count from 0. A class called `ignore` or `void` is ignored, and so is 255 unless it has
    a name. Raises `DataError` naming file and line, also if only some lines have a number.
    """
    lines = text_lines(path)
    matches = [_NUMBERED.fullmatch(text) for _, text in lines]
    _check_alike(path, lines, matches)
    numbered = all(matches)
    values: dict[int, int] = {}
    names: list[str] = []
    for i, (line, text) in enumerate(lines):
        match = matches[i] if numbered else None
        value, name = (int(match.group(1)), match.group(2)) if match else (i, text)
        if value > _MAX_VALUE or value in values:
            reason = "is listed twice" if value in values else f"is more than {_MAX_VALUE}"
            raise DataError(f"{path}:{line}: class number {value} {reason}")
        values[value] = _next_class(names, name)
    check_classes(names, str(path))
    values.setdefault(IGNORE_INDEX, IGNORE_INDEX)
    return ClassTable(names=tuple(names), palette=default_palette(len(names)), values=values, numbered=numbered)


def _check_alike(path: Path, lines: Sequence[tuple[int, str]], matches: Sequence[re.Match[str] | None]) -> None:
    """Raises `DataError` if only some lines have a number, which would then be read as a part of the name."""
    numbered = next((line for line, match in zip(lines, matches, strict=True) if match), None)
    other = next((line for line, match in zip(lines, matches, strict=True) if match is None), None)
    if numbered and other:
        raise DataError(
            f"{path}:{other[0]}: {other[1]!r} has no number, but line {numbered[0]}, {numbered[1]!r}, has one; write "
            "'number name' in every line (also for a name that begins with a number), or in none"
        )
    if all(_NUMBER_LAST.fullmatch(text) for _, text in lines):
        raise DataError(f"{path}:{lines[0][0]}: {lines[0][1]!r}; write the number first: 'number name'")


def read_colors(path: Path, classes: ClassTable | None) -> ClassTable:
    """Read a colour map, lines `R G B name`, for the given classes; None takes the classes from the map.

    Several colours may share a name. Raises `DataError` naming file and line.
    """
    names = list(classes.names) if classes else []
    colors: dict[Rgb, int] = {}
    for line, text in text_lines(path):
        match = _COLORED.fullmatch(text)
        if match is None or max(int(part) for part in match.groups()[:3]) > 255:
            raise DataError(f"{path}:{line}: {text!r}; write 'R G B name' with numbers from 0 to 255")
        red, green, blue = (int(part) for part in match.groups()[:3])
        name = match.group(4)
        if (red, green, blue) in colors:
            raise DataError(f"{path}:{line}: colour {red} {green} {blue} is listed twice")
        if classes and name not in names and name.lower() not in IGNORED_NAMES:
            raise DataError(f"{path}:{line}: {name!r} is not one of the classes ({', '.join(names)})")
        colors[red, green, blue] = names.index(name) if name in names else _next_class(names, name)
    check_classes(names, str(path))
    first = {class_id: color for color, class_id in reversed(colors.items())}
    palette = tuple(first.get(i, color) for i, color in enumerate(default_palette(len(names))))
    return ClassTable(names=tuple(names), palette=palette, values={}, colors=colors)


def found_classes(values: Sequence[int], palette: Sequence[Rgb] | None, where: str) -> ClassTable:
    """Classes named `class_NUMBER` for the numbers that the masks hold.

    255 is ignored. If 0 and 255 are the only numbers, they become `background` and `foreground`.
    """
    if set(values) == {0, IGNORE_INDEX}:
        return ClassTable(
            names=("background", "foreground"), palette=default_palette(2), values={0: 0, IGNORE_INDEX: 1}
        )
    numbers = sorted(set(values) - {IGNORE_INDEX})
    if not numbers:
        raise DataError(f"{where}: the masks hold only {IGNORE_INDEX}, which is ignored")
    if len(numbers) > 255:
        raise DataError(
            f"{where}: the masks hold {len(numbers)} different numbers, but there can be at most 255 classes; are "
            "these class ids?"
        )
    colors = default_palette(len(numbers))
    if palette:
        colors = tuple(palette[number] if number < len(palette) else colors[i] for i, number in enumerate(numbers))
    return ClassTable(
        names=tuple(f"class_{number}" for number in numbers),
        palette=colors,
        values={**{number: i for i, number in enumerate(numbers)}, IGNORE_INDEX: IGNORE_INDEX},
    )


def mask_numbers(mask: RawMask, where: str) -> dict[int, int]:
    """The numbers that a mask holds, each with its count of pixels.

    Raises `DataError` for a mask in colours, or for numbers that cannot be class ids.
    """
    numbers = grey_values(mask, where)
    for extreme in (int(numbers.min()), int(numbers.max())):
        if not 0 <= extreme <= _MAX_VALUE:
            raise DataError(f"{where}: holds the number {extreme}; class ids are 0 to {_MAX_VALUE}")
    counts = np.bincount(numbers.ravel())
    return {int(number): int(counts[number]) for number in np.flatnonzero(counts)}


def _next_class(names: list[str], name: str) -> int:
    if name.lower() in IGNORED_NAMES:
        return IGNORE_INDEX
    names.append(name)
    return len(names) - 1


def grey_values(mask: RawMask, where: str) -> NDArray[np.integer]:
    """(H, W) numbers of a mask. An RGB mask of greys counts as grey; raises `DataError` for other colours."""
    if not mask.is_color:
        return mask.values
    grey = (mask.values == mask.values[..., :1]).all(axis=2)
    if not grey.all():
        y, x = np.unravel_index(int(grey.argmin()), grey.shape)
        red, green, blue = (int(part) for part in mask.values[y, x])
        raise DataError(
            f"{where}: a mask in colours, ({red}, {green}, {blue}) at (x={x}, y={y}); give a colour map with lines "
            "'R G B name' (--colors)"
        )
    return mask.values[..., 0]


def _as_colors(mask: RawMask, where: str) -> NDArray[np.uint8]:
    """(H, W, 3) colours of a mask. Raises `DataError` naming a grey value above 255 and its position."""
    if mask.is_color:
        return mask.values.astype(np.uint8)
    if mask.palette:
        table = np.zeros((256, 3), np.uint8)
        table[: len(mask.palette)] = mask.palette
        return np.asarray(table[mask.values])
    if (wrong := (mask.values < 0) | (mask.values > 255)).any():
        y, x = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise DataError(
            f"{where}: the grey value {mask.values[y, x]} at (x={x}, y={y}) ({int(wrong.sum())} such pixels) cannot "
            "be a colour, whose parts are 0 to 255; if the masks hold class ids, leave the colour map out"
        )
    return np.repeat((mask.values * (255 // mask.white)).astype(np.uint8)[..., None], 3, axis=2)


def _code(color: Rgb) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def text_lines(path: Path, what: str = "class") -> list[tuple[int, str]]:
    """Numbered lines of a text file, without comments and blank lines. Raises `DataError` if there are none."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
    stripped = ((i, _COMMENT.sub("", line).strip()) for i, line in enumerate(text.splitlines(), 1))
    lines = [(i, line) for i, line in stripped if line]
    if not lines:
        raise DataError(f"{path}: names no {what}")
    return lines
