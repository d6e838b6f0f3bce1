"""What the tars hold: the split of each tar, and the classes behind the mask values."""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.indexing.tar import Reading
from dist_seg.data.raw.classes import ClassTable
from dist_seg.errors import DataError, UserError

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "dev",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, kw_only=True)
class TarLayout:
    """What the tars hold: which files are images and masks, what the mask values mean, and the split of each tar."""

    classes: ClassTable | None = None
    """None takes all ids up to the largest one in a mask."""
    ignore_index: int | None = None
    """None takes the ignored value of the classes, or 255."""
    image_suffixes: tuple[str, ...] = Reading.image_suffixes
    mask_suffix: str = Reading.mask_suffix
    splits: Mapping[str, str] | None = None
    """Pattern of tar paths for each split; None goes by the names of tars and folders."""


def split_of(name: str, patterns: Mapping[str, str] | None) -> str:
    """The split of the tar at this path. Raises `UserError` unless there is exactly one."""
    if patterns:
        matching = [split for split, pattern in patterns.items() if fnmatch.fnmatchcase(name, pattern)]
        if len(matching) != 1:
            what = f"matches the splits {', '.join(matching)}" if matching else "matches no --split"
            raise UserError(f"{name}: {what}; each tar must belong to one split")
        return matching[0]
    for part in reversed(name.removesuffix(".tar").lower().split("/")):
        words = {_SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", part) if word in _SPLIT_WORDS}
        if len(words) == 1:
            return words.pop()
    raise UserError(f"{name}: its name contains no split (train, val, test); give the split: --split train='*.tar'")


def classes_of(table: ClassTable | None, ignore_index: int | None) -> tuple[tuple[str, ...], int]:
    """The class names, empty if they must be found in the masks, and the ignore index.

    Raises `UserError` unless the mask values are the class ids.
    """
    if table is None:
        return (), IGNORE_INDEX if ignore_index is None else ignore_index
    ignored = sorted(n for n, class_id in table.values.items() if class_id == IGNORE_INDEX and n != IGNORE_INDEX)
    moved = [(n, i) for n, i in table.values.items() if i != IGNORE_INDEX and n != i]
    if table.colors is not None:
        raise UserError("index does not rewrite masks in tars: they must hold class ids, not colours")
    if moved:
        number, class_id = moved[0]
        raise UserError(
            f"class {table.names[class_id]} has the value {number} in the masks and would be class {class_id}: index "
            "does not rewrite masks in tars, so the values must be 0, 1, 2, ... without gaps; unpack the tars and pack "
            "them (dist-seg pack folder)"
        )
    if ignore_index is not None:
        ignored = sorted({*ignored, ignore_index})
    if len(ignored) > 1:
        raise UserError(
            f"the values {', '.join(map(str, ignored))} are all to be ignored; with tars only one value can be"
        )
    chosen = ignored[0] if ignored else IGNORE_INDEX
    if not len(table.names) <= chosen <= IGNORE_INDEX:
        raise UserError(
            f"the ignored value is {chosen}; it must be larger than all class ids, and at most {IGNORE_INDEX}"
        )
    return table.names, chosen


def found_classes(root: Path, pixels: Sequence[int], ignored: int) -> tuple[tuple[str, ...], str]:
    """Names for all ids up to the largest one in the masks, and a note about them for the user."""
    numbers = [number for number, count in enumerate(pixels) if count]
    ids = [number for number in numbers if number != ignored]
    if not ids or max(ids) >= IGNORE_INDEX or ids == [0]:
        raise DataError(
            f"{root}: the masks hold the values {', '.join(map(str, numbers))}, and {ignored} is ignored; name the "
            "classes (--classes), or unpack the tars and pack them (dist-seg pack folder)"
        )
    if max(ids) > ignored:
        raise UserError(f"the ignored value {ignored} is below the id {max(ids)} in the masks; it must be the largest")
    note = f"no classes.txt: the classes are the values found in the masks, 0 to {max(ids)}"
    if gaps := [number for number in range(max(ids)) if number not in ids]:
        note += f"; no pixel has the value {', '.join(map(str, gaps))}"
    return tuple(f"class_{number}" for number in range(max(ids) + 1)), note
