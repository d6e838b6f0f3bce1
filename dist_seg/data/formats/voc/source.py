"""Pascal VOC's layout: `JPEGImages/`, `SegmentationClass/`, and lists in `ImageSets/Segmentation/`.

Masks are palette or grey PNGs of class ids, or RGB PNGs of colours, as labelling tools such as CVAT export them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.formats.voc.labels import VocClasses, read_voc_classes, voc_classes
from dist_seg.data.formats.voc.lists import LISTS_NAME, read_list, voc_files
from dist_seg.data.raw.listing import Pair, listed_refs, read_pair
from dist_seg.data.raw.meaning import Meaning
from dist_seg.data.raw.palettes import common_colors
from dist_seg.data.raw.source import RawReading, RawSample, SampleRef
from dist_seg.data.raw.splitting import Dividing, Division, divide
from dist_seg.errors import DataError, UserError
from dist_seg.masks.palette import Rgb
from dist_seg.runtime.plural import count_of

MASKS_NAME = "SegmentationClass"
_LABEL_MAP_NAME = "labelmap.txt"
_LABEL_MAP_ADVICE = "give a label map with lines 'name:R,G,B::' (--classes)"
_SPLITS = {"train": "train", "val": "val", "validation": "val"}
"""The lists packed by default, and their splits. `test` is not one of them: VOC publishes no masks for it."""


@dataclass(frozen=True, kw_only=True)
class VocSource:
    """Made by `open_voc`."""

    listed: tuple[tuple[str, Pair], ...] = field(repr=False)
    """The split and pair of every line in the lists. Not sent to worker processes, which do not need them."""
    classes: VocClasses
    division: Division | None = None
    """None if the lists are the splits."""
    reading: RawReading = RawReading()
    """A line is bad if its image or mask is missing, or if it repeats another."""
    notes: tuple[str, ...] = ()
    """Messages for the user before packing."""
    ignore_index: int = IGNORE_INDEX

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "listed": ()}

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes.numbers.names

    @property
    def palette(self) -> tuple[Rgb, ...]:
        return self.classes.numbers.palette

    @property
    def meaning(self) -> Meaning:
        """What the numbers and colours mean, for the record of packing."""
        return {**self.classes.numbers.meaning, **(self.classes.colors.meaning if self.classes.colors else {})}

    def samples(self) -> Sequence[SampleRef]:
        return listed_refs(self.listed, self.reading, self.classes.version, "the list")

    def load(self, sample: SampleRef) -> RawSample:
        image, mask_file = read_pair(sample)
        mask = self.classes.class_ids(mask_file, sample.mask_where, self.reading.max_pixels)
        return RawSample(image=image, mask=mask)


def open_voc(
    root: Path,
    lists: Sequence[tuple[str, str]] = (),
    *,
    masks: str = MASKS_NAME,
    classes: Path | None = None,
    dividing: Dividing = Dividing(),
    reading: RawReading = RawReading(),
) -> VocSource:
    """The data set below `root`.

    lists: names of splits, each with the name of its list in `ImageSets/Segmentation/`; by default the lists called
    train and val. masks: the folder of masks below `root`. classes: see `read_voc_classes`; None takes `labelmap.txt`
    if it is there, else VOC's classes. dividing: how to divide a data set whose only list is not named after a split
    (CVAT's `default.txt`). Raises `DataError` naming what is missing, and `UserError` for options without effect.
    """
    files = voc_files(root, masks)
    files_of_lists = {path.stem: path for path in sorted((root / LISTS_NAME).glob("*.txt"))}
    chosen = _chosen(root / LISTS_NAME, files_of_lists, lists)
    notes: list[str] = []
    division = None
    if chosen:
        if (dividing.val, dividing.group_by, dividing.split) != (None, None, None):
            raise UserError(
                f"{root}: its lists are the splits, so --val, --group-by and --split have no effect; leave them out"
            )
        listed = [(name, pair) for name, file in chosen for pair in read_list(file, files)]
        unused = [name for name, file in files_of_lists.items() if file not in [used for _, used in chosen]]
        if unused and not lists:
            notes.append(f"lists that are not packed: {', '.join(unused)} (--list NAME LIST packs them)")
        notes += _overlaps(listed)
    else:
        (only,) = files_of_lists.values()
        pairs = read_list(only, files)
        stems = [pair.stem for pair in pairs]
        division = divide(only, stems, dividing)
        listed = list(zip(division.splits(stems), pairs, strict=True))
    if classes is None and (root / _LABEL_MAP_NAME).is_file():
        classes = root / _LABEL_MAP_NAME
    notes.append(f"classes from {classes}" if classes else "classes of Pascal VOC")
    table = read_voc_classes(classes) if classes else voc_classes()
    if classes and not table.palette_by_colors:
        paths = {pair.mask: None for _, pair in listed if pair.mask}
        table = replace(table, index_colors=common_colors(paths, _LABEL_MAP_ADVICE))
    return VocSource(
        listed=tuple(listed),
        classes=table,
        division=division,
        reading=reading,
        notes=tuple(notes),
    )


def _chosen(folder: Path, files: Mapping[str, Path], lists: Sequence[tuple[str, str]]) -> list[tuple[str, Path]]:
    """Splits with the files of their lists; empty if the only list is to be divided."""
    existing = ", ".join(files) or "none"
    if unknown := [name for _, name in lists if name.removesuffix(".txt") not in files]:
        raise DataError(f"{folder / unknown[0]}.txt: there is no such list; there are: {existing}")
    if lists:
        return [(split, files[name.removesuffix(".txt")]) for split, name in lists]
    found = [(_SPLITS[name.lower()], file) for name, file in files.items() if name.lower() in _SPLITS]
    if not found and len(files) != 1:
        raise DataError(
            f"{folder}: has no list train.txt or val.txt (there are: {existing}); choose lists with --list NAME LIST"
        )
    return found


def _overlaps(listed: Sequence[tuple[str, Pair]]) -> list[str]:
    """Notes on images that are in two splits."""
    stems: dict[str, set[str]] = {}
    for split, pair in listed:
        stems.setdefault(split, set()).add(pair.stem)
    counts = ((a, b, len(stems[a] & stems[b])) for a, b in combinations(stems, 2))
    return [f"{count_of(count, 'image')} in both {a} and {b}" for a, b, count in counts if count]
