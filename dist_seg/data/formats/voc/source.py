"""Pascal VOC's layout: `JPEGImages/`, `SegmentationClass/`, and lists in `ImageSets/Segmentation/`.

Masks are palette or grey PNGs of class ids, or in colours as labelling tools such as CVAT export them.
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

MASKS_NAME = "SegmentationClass"
_LABEL_MAP_NAME = "labelmap.txt"
_LABEL_MAP_ADVICE = "give a label map with lines 'name:R,G,B::' (--classes)"
_SPLITS = {"train": "train", "val": "val", "validation": "val"}
"""The lists that are packed unless others are asked for. `test` is not: VOC publishes no masks of it."""


@dataclass(frozen=True, kw_only=True)
class VocSource:
    """Made by `open_voc`."""

    listed: tuple[tuple[str, Pair], ...] = field(repr=False)
    """The split and pair of every line in the lists. Not sent to worker processes, which do not need them."""
    classes: VocClasses
    division: Division | None = None
    """None where the lists say the splits."""
    reading: RawReading = RawReading()
    """Bad is a line whose image or mask is missing, or that comes twice."""
    notes: tuple[str, ...] = ()
    """What the user should see before packing."""
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
        """For a later run."""
        return {**self.classes.numbers.meaning, **(self.classes.colors.meaning if self.classes.colors else {})}

    def samples(self) -> Sequence[SampleRef]:
        return listed_refs(self.listed, self.reading, self.classes.version, "the list")

    def load(self, sample: SampleRef) -> RawSample:
        image, mask_file = read_pair(sample)
        mask = self.classes.class_ids(mask_file, sample.mask_where, self.reading.max_pixels)
        return RawSample(image=image, mask=mask)


def open_voc(
    root: Path,
    parts: Sequence[tuple[str, str]] = (),
    *,
    masks: str = MASKS_NAME,
    classes: Path | None = None,
    dividing: Dividing = Dividing(),
    reading: RawReading = RawReading(),
) -> VocSource:
    """The data set below `root`.

    parts: the name of a split and of its list in `ImageSets/Segmentation/` each; none takes the lists called train and
    val. masks: the folder of masks below `root`. classes: see `read_voc_classes`; None takes `labelmap.txt` where there
    is one, else VOC's. dividing: of a data set with one list that is not named after a split (CVAT's `default.txt`).
    Raises `DataError` naming what is missing, and `UserError` for options without effect.
    """
    files = voc_files(root, masks)
    lists = {path.stem: path for path in sorted((root / LISTS_NAME).glob("*.txt"))}
    chosen = _chosen(root / LISTS_NAME, lists, parts)
    notes: list[str] = []
    division = None
    if chosen:
        if (dividing.val, dividing.group_by, dividing.split) != (None, None, None):
            raise UserError(
                f"{root}: its lists say which image is in which split, so that --val, --group-by and --split have no "
                "effect; leave them out"
            )
        listed = [(name, pair) for name, file in chosen for pair in read_list(file, files)]
        unused = [name for name, file in lists.items() if file not in [chosen_file for _, chosen_file in chosen]]
        if unused and not parts:
            notes.append(f"lists that are not packed: {', '.join(unused)} (--list NAME LIST packs them)")
        notes += _overlaps(listed)
    else:
        (only,) = lists.values()
        pairs = read_list(only, files)
        stems = [pair.stem for pair in pairs]
        division = divide(only, stems, dividing)
        listed = list(zip(division.splits(stems), pairs, strict=True))
    if classes is None and (root / _LABEL_MAP_NAME).is_file():
        classes = root / _LABEL_MAP_NAME
    notes.append(f"classes from {classes}" if classes else "the classes are those of Pascal VOC")
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


def _chosen(folder: Path, lists: Mapping[str, Path], parts: Sequence[tuple[str, str]]) -> list[tuple[str, Path]]:
    """Splits with their lists; none where the only list is to be divided."""
    there = ", ".join(lists) or "none"
    if unknown := [name for _, name in parts if name.removesuffix(".txt") not in lists]:
        raise DataError(f"{folder / unknown[0]}.txt: there is no such list; there are: {there}")
    if parts:
        return [(split, lists[name.removesuffix(".txt")]) for split, name in parts]
    found = [(_SPLITS[name.lower()], file) for name, file in lists.items() if name.lower() in _SPLITS]
    if not found and len(lists) != 1:
        raise DataError(f"{folder}: has no list train.txt or val.txt (there are: {there}); choose by --list NAME LIST")
    return found


def _overlaps(listed: Sequence[tuple[str, Pair]]) -> list[str]:
    """What is said of images that are in two splits."""
    stems: dict[str, set[str]] = {}
    for split, pair in listed:
        stems.setdefault(split, set()).add(pair.stem)
    counts = ((a, b, len(stems[a] & stems[b])) for a, b in combinations(stems, 2))
    return [f"{count} images are in {a} and in {b}" for a, b, count in counts if count]
