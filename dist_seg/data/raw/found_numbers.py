"""The numbers found in the masks of a data set, if the user did not say what they mean."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.raw.classes import ClassTable, mask_numbers
from dist_seg.data.raw.images import read_file, read_mask
from dist_seg.data.raw.listing import Pair
from dist_seg.errors import DataError, StorageError
from dist_seg.masks.palette import Rgb

_MANY_BETWEEN = 8
"""So many numbers between 0 and 255, each rarer than these, point to smoothed edges. Fewer may be classes."""
_MANY_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class FoundNumbers:
    """What all usable masks hold together."""

    pixels: Counter[int]
    """Number of pixels of each number."""
    masks: Counter[int]
    """Number of masks that hold each number."""
    first: dict[int, Path]
    """The first mask that holds each number."""
    share_1_and_255: bool
    """Whether some mask holds both 1 and 255."""
    palette: tuple[Rgb, ...] | None
    """The first palette found; None if no mask has one."""

    @property
    def black_and_white(self) -> bool:
        return self.pixels.keys() == {0, IGNORE_INDEX}

    def check_one_white(self) -> None:
        """Raises `DataError` if some masks hold 1 and others 255, like 1-bit and 8-bit masks in one folder."""
        numbers = self.pixels.keys()
        if {1, IGNORE_INDEX} <= numbers <= {0, 1, IGNORE_INDEX} and not self.share_1_and_255:
            raise DataError(
                f"{self.first[1]} holds 1, {self.first[IGNORE_INDEX]} holds 255, and no mask holds both: does 255 mean "
                "the same as 1 (8-bit black and white), or is it ignored? If it means the same, write a colors.txt "
                "with the lines '0 0 0 background' and '255 255 255 foreground'; 1-bit masks are read by it too. If it "
                "is ignored, write a classes.txt with the lines '0 background', '1 foreground', '255 ignore'"
            )

    def check_not_blurred(self, where: str) -> None:
        """Raises `DataError` for black and white masks with smoothed edges: many numbers between 0 and 255, each rarer
        than these two."""
        between = {number: count for number, count in self.pixels.items() if 0 < number < IGNORE_INDEX}
        if len(between) < _MANY_BETWEEN or max(between) < 128 or len(self.pixels) > len(between) + 2:
            return
        if max(between.values()) < min(self.pixels[0], self.pixels[IGNORE_INDEX]):
            rarest = min(between, key=lambda number: (between[number], number))
            raise DataError(
                f"{where}: most pixels are 0 and 255, with {len(between)} numbers between them, such as {rarest} in "
                f"{self.first[rarest]}. Were edges smoothed? Then resize masks by nearest neighbour and save them "
                "losslessly; if these are class ids, list them (--classes)"
            )

    def notes(self, table: ClassTable) -> list[str]:
        """Notes for the user on 255, and on suspiciously many numbers."""
        notes = []
        numbers = self.pixels.keys() - {IGNORE_INDEX}
        if len(numbers) > _MANY_CLASSES and max(numbers) > 1.5 * len(numbers):
            notes.append(
                f"{len(numbers)} different numbers up to {max(numbers)} are many for classes; masks must be resized "
                "by nearest neighbour, or edges get numbers between those of the classes"
            )
        count = self.masks[IGNORE_INDEX]
        if count and table.values.get(IGNORE_INDEX) == IGNORE_INDEX:
            share = self.pixels[IGNORE_INDEX] / self.pixels.total()
            notes.append(
                f"255 is in {count} mask{'s' * (count != 1)} ({share:.2%} of all pixels) and ignored; if it is a "
                "class, name it with a line '255 NAME' in classes.txt"
            )
        return notes


def find_numbers(pairs: Sequence[Pair], max_pixels: int, progress: Callable[[int, int], None] | None) -> FoundNumbers:
    """Read all masks. Packing reports the masks that cannot be used; raises the first such error if none can."""
    pixels: Counter[int] = Counter()
    masks: Counter[int] = Counter()
    first: dict[int, Path] = {}
    share = False
    palette: tuple[Rgb, ...] | None = None
    error: DataError | StorageError | None = None
    for i, pair in enumerate(pairs):
        try:
            if pair.mask is not None:
                mask = read_mask(read_file(pair.mask), str(pair.mask), max_pixels)
                numbers = mask_numbers(mask, str(pair.mask))
                pixels.update(numbers)
                masks.update(numbers.keys())
                first = {**dict.fromkeys(numbers, pair.mask), **first}
                share = share or {1, IGNORE_INDEX} <= numbers.keys()
                palette = palette or mask.palette
        except (DataError, StorageError) as unusable:
            error = error or unusable
        if progress:
            progress(i + 1, len(pairs))
    if error and not pixels:
        raise error
    return FoundNumbers(pixels=pixels, masks=masks, first=first, share_1_and_255=share, palette=palette)
