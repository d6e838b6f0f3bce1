"""CamVid in the layout of SegNet's authors: `train/` and `trainannot/`, `val/` and `valannot/`, and so on.

Masks are grey PNGs of the class ids 0 to 10, and 11 for void, which becomes the ignore index.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.raw.images import read_mask
from dist_seg.data.raw.listing import PairFolders, read_pair
from dist_seg.data.raw.source import RawReading, RawSample, SampleRef
from dist_seg.errors import DataError
from dist_seg.masks.palette import Rgb

_VOID_ID = 11
_MASK_FOLDER_SUFFIX = "annot"


@dataclass(frozen=True, kw_only=True)
class CamvidSource:
    """The data set below `root`: for every folder NAMEannot, NAME is a split."""

    root: Path
    dev_prefix: str = ""
    """Training images whose names begin with this become the split `dev`. `0006R0`, for example, sets one sequence
    apart."""
    reading: RawReading = RawReading()

    class_names: ClassVar[tuple[str, ...]] = (
        *("sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car"),
        *("pedestrian", "bicyclist"),
    )
    palette: ClassVar[tuple[Rgb, ...]] = (
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    )
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def samples(self) -> Sequence[SampleRef]:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder")
        splits = sorted(
            path.name.removesuffix(_MASK_FOLDER_SUFFIX)
            for path in self.root.iterdir()
            if path.name.endswith(_MASK_FOLDER_SUFFIX) and path.is_dir()
        )
        if not splits:
            raise DataError(f"{self.root}: holds no folder of masks (trainannot, valannot); is this CamVid?")
        refs = [ref for split in splits for ref in self._split_samples(split)]
        if self.dev_prefix and not any(ref.split == "dev" for ref in refs):
            raise DataError(f"{self.root}: no training image begins with {self.dev_prefix!r}")
        return refs

    def _split_samples(self, split: str) -> list[SampleRef]:
        masks = self.root / f"{split}{_MASK_FOLDER_SUFFIX}"
        refs = PairFolders(images=self.root / split, masks=masks, split=split).refs(self.reading)
        if not self.dev_prefix or split != "train":
            return refs
        return [replace(ref, split="dev") if ref.key.startswith(self.dev_prefix) else ref for ref in refs]

    def load(self, sample: SampleRef) -> RawSample:
        image, mask_file = read_pair(sample)
        raw = read_mask(mask_file, sample.mask_where, self.reading.max_pixels)
        if raw.is_color:
            raise DataError(f"{sample.mask_where}: a mask in colours; CamVid's masks here are grey class ids")
        mask = raw.values.copy()
        mask[mask == _VOID_ID] = self.ignore_index  # ten times as fast as `np.where`
        return RawSample(image=image, mask=mask)
