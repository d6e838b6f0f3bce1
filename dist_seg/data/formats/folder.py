"""A folder of images and a folder of masks with equal stems, sub-folders included.

Masks hold grey ids, palette indices as ids, or colours with a colour map. Sub-folders `train`, `val` and `test` are the
splits; without them a share of the images is taken for validation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.raw.classes import ClassTable, found_classes, read_classes, read_colors
from dist_seg.data.raw.found_numbers import FoundNumbers, find_numbers
from dist_seg.data.raw.listing import Pair, PairFolders
from dist_seg.data.raw.mask_source import MaskSource
from dist_seg.data.raw.meaning import recorded_meaning
from dist_seg.data.raw.palettes import IndexColors, common_colors
from dist_seg.data.raw.source import RawReading
from dist_seg.data.raw.splitting import Dividing, divide
from dist_seg.errors import DataError
from dist_seg.runtime.plural import count_of

CLASSES_NAME, _COLORS_NAME = "classes.txt", "colors.txt"
_COLORS_ADVICE = "list the classes with their colours, in lines 'R G B name' (--colors)"


def open_folder(
    images: Path,
    masks: Path,
    *,
    classes: Path | None = None,
    colors: Path | None = None,
    dividing: Dividing = Dividing(),
    reading: RawReading = RawReading(),
    before: Mapping[str, object] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MaskSource:
    """The data set in two folders. Masks are read only if no file lists the classes.

    classes, colors: text files; None takes `classes.txt` and `colors.txt` from the masks' folder, the folder above it
    or the folder above the images, if they are there. before: the recorded options of the data set that samples are
    added to. progress: called with the number of masks read and of all masks. Raises `UserError` for options that would
    have no effect.
    """
    folders, pairs, others = divided_folders(images, masks, dividing, reading)
    classes = classes or file_beside(images, masks, CLASSES_NAME)
    colors = colors or file_beside(images, masks, _COLORS_NAME)
    notes: list[str] = []
    if colors:
        table = read_colors(colors, read_classes(classes) if classes else None)
    elif classes:
        table = read_classes(classes)
        if table.is_unnumbered_pair:
            table, notes = _classes_of_pair(table, lambda: find_numbers(pairs, reading.max_pixels, progress), before)
    else:
        found = find_numbers(pairs, reading.max_pixels, progress)
        found.check_one_white()
        found.check_not_blurred(str(masks))
        table = found_classes(sorted(found.pixels), found.palette, str(masks))
        listed = (f"{value} {table.names[i]}" for value, i in sorted(table.values.items()) if i != IGNORE_INDEX)
        notes.append(f"no {CLASSES_NAME}: classes by the numbers found in the masks: {', '.join(listed)}")
        notes += found.notes(table)
    notes += [f"classes from {path}" for path in (classes, colors) if path]
    notes += ignored_files(others, (CLASSES_NAME, _COLORS_NAME))
    return MaskSource(
        folders=(folders,),
        classes=table,
        index_colors=IndexColors() if colors else common_colors((p.mask for p in pairs if p.mask), _COLORS_ADVICE),
        reading=reading,
        notes=tuple(notes),
    )


def divided_folders(
    images: Path, masks: Path, dividing: Dividing, reading: RawReading
) -> tuple[PairFolders, list[Pair], list[Path]]:
    """The two folders, divided into splits; their pairs, and the files that are no images."""
    folders = PairFolders(images=images, masks=masks, split="")
    pairs, others = folders.pairs(keep_lone=reading.skip_bad)
    division = divide(images, [pair.stem for pair in pairs], dividing)
    return replace(folders, split=division), pairs, others


def ignored_files(others: Sequence[Path], expected: Sequence[str]) -> list[str]:
    """A note on files that are no images, apart from those with the expected names."""
    ignored = [path for path in others if path.name not in expected]
    if not ignored:
        return []
    return [f"ignored {count_of(len(ignored), 'file')} of other types, for example {ignored[0]}"]


def file_beside(images: Path, masks: Path, name: str) -> Path | None:
    """The file with that name in the masks' folder, the folder above it or the folder above the images; else None."""
    for folder in (masks, masks.absolute().parent, images.absolute().parent):
        if (folder / name).is_file():
            return folder / name
    return None


def _classes_of_pair(
    table: ClassTable, find: Callable[[], FoundNumbers], before: Mapping[str, object] | None
) -> tuple[ClassTable, list[str]]:
    """Decide whether 255 is the second of two classes without numbers; the table, and notes for the user.

    When samples are added to a data set, 255 means what it meant there. Raises `DataError` if that is not known.
    """
    as_white = replace(table, values={0: 0, IGNORE_INDEX: 1})
    if numbers := (recorded_meaning(before) or {}).get("number"):
        was_white = numbers.get(str(IGNORE_INDEX)) == table.names[1]
        now = as_white if was_white else table
        return now, [f"255 is {table.names[1] if was_white else 'ignored'}, as in the data set you append to"]
    found = find()
    if before is not None and found.pixels[IGNORE_INDEX]:
        raise DataError(
            f"{found.first[IGNORE_INDEX]}: holds 255, and the data set you append to does not record whether that is "
            f"{table.names[1]} or ignored; write a number in every line of {CLASSES_NAME}, such as "
            f"'255 {table.names[1]}'"
        )
    if found.black_and_white:
        return as_white, [f"the masks hold 0 and 255 only: 255 is {table.names[1]}"]
    found.check_one_white()
    return table, found.notes(table)
