"""The numbers that stand in the masks of a data set whose user did not say what they mean."""

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
"""Numbers that are rarer than 0 and 255: a few may be classes."""
_MANY_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class FoundNumbers:
    """Of all masks that can be used."""

    pixels: Counter[int]
    """Of every number."""
    masks: Counter[int]
    """That hold a number."""
    first: dict[int, Path]
    """Such a mask."""
    share_1_and_255: bool
    """Whether a mask holds both."""
    palette: tuple[Rgb, ...] | None
    """The first."""

    @property
    def black_and_white(self) -> bool:
        return self.pixels.keys() == {0, IGNORE_INDEX}

    def check_one_white(self) -> None:
        """Raises `DataError` where some masks have 1 and others 255, as masks of 1 bit and of 8 bits in one folder."""
        numbers = self.pixels.keys()
        if {1, IGNORE_INDEX} <= numbers <= {0, 1, IGNORE_INDEX} and not self.share_1_and_255:
            raise DataError(
                f"{self.first[1]} holds 1, {self.first[IGNORE_INDEX]} 255, and no mask both: is 255 the same as 1 "
                "(black and white, of 8 bits), or to be ignored? Say so: by a colors.txt with the lines '0 0 0 "
                "background' and '255 255 255 foreground', as which masks of 1 bit are read, too; or by a classes.txt "
                "with the lines '0 background', '1 foreground', '255 ignore'"
            )

    def check_not_blurred(self, where: str) -> None:
        """Raises `DataError` for black and white masks whose edges were smoothed: numbers of all sizes, each rarer than
        0 and 255."""
        between = {number: count for number, count in self.pixels.items() if 0 < number < IGNORE_INDEX}
        if len(between) < _MANY_BETWEEN or max(between) < 128 or len(self.pixels) > len(between) + 2:
            return
        if max(between.values()) < min(self.pixels[0], self.pixels[IGNORE_INDEX]):
            rarest = min(between, key=lambda number: (between[number], number))
            raise DataError(
                f"{where}: most pixels are 0 and 255, and {len(between)} numbers stand between them, such as {rarest} "
                f"in {self.first[rarest]}: edges that were smoothed? Resize masks by the nearest neighbour and save "
                "them without loss; if these are class ids, list them (--classes)"
            )

    def notes(self, table: ClassTable) -> list[str]:
        """What to say of 255, and of more numbers than there may be classes."""
        notes = []
        numbers = self.pixels.keys() - {IGNORE_INDEX}
        if len(numbers) > _MANY_CLASSES and max(numbers) > 1.5 * len(numbers):
            notes.append(
                f"{len(numbers)} different numbers up to {max(numbers)} are many for classes; if masks were resized, "
                "that must be by the nearest neighbour, else edges get numbers between those of the classes"
            )
        count = self.masks[IGNORE_INDEX]
        if count and table.values.get(IGNORE_INDEX) == IGNORE_INDEX:
            share = self.pixels[IGNORE_INDEX] / self.pixels.total()
            notes.append(
                f"255 is in {count} mask{'s' * (count != 1)} ({share:.2%} of all pixels) and ignored; if it is a "
                "class, give it a name by a line '255 NAME' in classes.txt"
            )
        return notes


def find_numbers(pairs: Sequence[Pair], max_pixels: int, progress: Callable[[int, int], None] | None) -> FoundNumbers:
    """Read all masks. Those that cannot be used are left to packing, unless that is all of them."""
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
