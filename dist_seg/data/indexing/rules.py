"""What tars of others are taken to hold: which split each is of, and which classes the numbers in the masks are."""

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
    """What the tars hold: which members are image and mask, what the masks' numbers mean, which split a tar is of."""

    classes: ClassTable | None = None
    """None takes every id up to the largest that stands in a mask."""
    ignore_index: int | None = None
    """None takes 255, or what the classes say."""
    image_suffixes: tuple[str, ...] = Reading.image_suffixes
    mask_suffix: str = Reading.mask_suffix
    splits: Mapping[str, str] | None = None
    """Patterns of the tars' paths by split; None goes by the names of tars and folders."""


def split_of(name: str, patterns: Mapping[str, str] | None) -> str:
    if patterns:
        fitting = [split for split, pattern in patterns.items() if fnmatch.fnmatchcase(name, pattern)]
        if len(fitting) != 1:
            what = f"fits the splits {', '.join(fitting)}" if fitting else "fits no --split"
            raise UserError(f"{name}: {what}; each tar must be of one split")
        return fitting[0]
    for part in reversed(name.removesuffix(".tar").lower().split("/")):
        words = {_SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", part) if word in _SPLIT_WORDS}
        if len(words) == 1:
            return words.pop()
    raise UserError(f"{name}: its name says no split (train, val, test); say it: --split train='*.tar'")


def classes_of(table: ClassTable | None, ignore_index: int | None) -> tuple[tuple[str, ...], int]:
    """Names, none where they are to be found, and the ignore index. Numbers in the masks must be the class ids."""
    if table is None:
        return (), IGNORE_INDEX if ignore_index is None else ignore_index
    ignored = sorted(n for n, class_id in table.values.items() if class_id == IGNORE_INDEX and n != IGNORE_INDEX)
    moved = [(n, i) for n, i in table.values.items() if i != IGNORE_INDEX and n != i]
    if table.colors is not None:
        raise UserError("masks in tars are not rewritten: they must hold class ids, not colours")
    if moved:
        number, class_id = moved[0]
        raise UserError(
            f"class {table.names[class_id]} has the number {number} in the masks and would be class {class_id}: masks "
            "in tars are not rewritten, so the numbers must be 0, 1, 2, ... without gaps; unpack the tars and pack "
            "them (dist-seg pack folder)"
        )
    if ignore_index is not None:
        ignored = sorted({*ignored, ignore_index})
    if len(ignored) > 1:
        raise UserError(f"the numbers {', '.join(map(str, ignored))} are all to be ignored; of tars there can be one")
    chosen = ignored[0] if ignored else IGNORE_INDEX
    if not len(table.names) <= chosen <= IGNORE_INDEX:
        raise UserError(f"the ignored number is {chosen}; it must lie behind the classes, up to {IGNORE_INDEX}")
    return table.names, chosen


def found_classes(root: Path, pixels: Sequence[int], ignored: int) -> tuple[tuple[str, ...], str]:
    """Names for the ids up to the largest of which there are pixels, and what the user should know of them."""
    numbers = [number for number, count in enumerate(pixels) if count]
    ids = [number for number in numbers if number != ignored]
    if not ids or max(ids) >= IGNORE_INDEX or ids == [0]:
        raise DataError(
            f"{root}: the masks hold the numbers {', '.join(map(str, numbers))}, of which {ignored} is ignored; name "
            "the classes (--classes), or unpack the tars and pack them (dist-seg pack folder)"
        )
    if max(ids) > ignored:
        raise UserError(
            f"the ignored number {ignored} lies below the id {max(ids)} in the masks; it must be the largest"
        )
    note = f"no classes.txt: classes found in the masks, by their numbers: 0 to {max(ids)}"
    if gaps := [number for number in range(max(ids)) if number not in ids]:
        note += f"; no pixel has {', '.join(map(str, gaps))}"
    return tuple(f"class_{number}" for number in range(max(ids) + 1)), note
