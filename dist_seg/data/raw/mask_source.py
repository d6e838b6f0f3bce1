"""The raw data set of most layouts: pairs of files in folders, and a table of what the numbers in masks mean."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.raw.classes import ClassTable
from dist_seg.data.raw.images import read_mask
from dist_seg.data.raw.listing import PairFolders, read_pair
from dist_seg.data.raw.meaning import Meaning
from dist_seg.data.raw.palettes import IndexColors
from dist_seg.data.raw.source import RawReading, RawSample, SampleRef
from dist_seg.data.raw.splitting import Division
from dist_seg.masks.palette import Rgb


@dataclass(frozen=True, kw_only=True)
class MaskSource:
    """A data set of class ids, in folders that a layout names."""

    folders: tuple[PairFolders, ...]
    classes: ClassTable
    index_colors: IndexColors = field(default_factory=IndexColors)
    """The colours of palette indices, for masks that are read by their indices."""
    fixed_numbers: bool = False
    """The layout itself says what the numbers in masks mean, so this is neither recorded nor compared between parts."""
    reading: RawReading = RawReading()
    notes: tuple[str, ...] = ()
    """Messages for the user before packing."""
    ignore_index: int = IGNORE_INDEX

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes.names

    @property
    def palette(self) -> tuple[Rgb, ...]:
        return self.classes.palette

    @property
    def meaning(self) -> Meaning | None:
        """Recorded when packing, and compared when samples are added or parts are merged."""
        return None if self.fixed_numbers else self.classes.meaning

    @property
    def division(self) -> Division | None:
        """Recorded when packing, to divide samples added later in the same way; None if folders are the splits."""
        return self.folders[0].division

    def samples(self) -> Sequence[SampleRef]:
        version = "" if self.fixed_numbers else f"{self.classes.version} {self.index_colors.version}".rstrip()
        return [ref for folders in self.folders for ref in folders.refs(self.reading, version)]

    def load(self, sample: SampleRef) -> RawSample:
        image, mask_file = read_pair(sample)
        mask = read_mask(mask_file, sample.mask_where, self.reading.max_pixels)
        self.index_colors.check(mask, sample.mask_where)
        return RawSample(image=image, mask=self.classes.class_ids(mask, sample.mask_where))
