"""Cityscapes with its fine annotations of instances: `leftImg8bit/` and `gtFine/*/*/*_gtFine_instanceIds.png`.

The classes are those that Cityscapes evaluates as instances, by its label ids. Caravans (29) and trailers (30), which
it annotates and does not evaluate, are background. A group that was not told apart is a crowd. Of the test images no
annotations are published.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from dist_seg.data.formats import RawInstances, SampleRef
from dist_seg.data.formats.instance_ids import IdRule, load_instance_ids
from dist_seg.data.formats.listing import pair_files, pair_ref
from dist_seg.data.headers import MAX_PIXELS
from dist_seg.data.manifest import IGNORE_INDEX, Rgb
from dist_seg.errors import DataError

# Name, label id and colour, from the labels of cityscapesScripts.
_CLASSES: tuple[tuple[str, int, Rgb], ...] = (
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
_NOT_EVALUATED = (29, 30)
_SPLITS = ("train", "val")
_RULE = IdRule(
    classes={
        **{label: class_id for class_id, (_, label, _) in enumerate(_CLASSES)},
        **dict.fromkeys(_NOT_EVALUATED, IGNORE_INDEX),
    },
    divisor=1000,
)


@dataclass(frozen=True, kw_only=True)
class CityscapesInstances:
    """The data set below `root`."""

    root: Path
    max_pixels: int = MAX_PIXELS
    """Of a mask."""
    skip_bad: bool = False
    """An image without a mask, or a mask without an image, is a bad sample instead of an error."""

    task: ClassVar[Literal["instance"]] = "instance"
    class_names: ClassVar[tuple[str, ...]] = tuple(name for name, _, _ in _CLASSES)
    category_ids: ClassVar[tuple[int, ...]] = tuple(label for _, label, _ in _CLASSES)
    palette: ClassVar[tuple[Rgb, ...]] = tuple(color for _, _, color in _CLASSES)
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def samples(self) -> Sequence[SampleRef]:
        splits = [split for split in _SPLITS if (self._images / split).is_dir()]
        if not splits:
            raise DataError(f"{self.root}: holds neither leftImg8bit/train nor leftImg8bit/val; is this Cityscapes?")
        return [ref for split in splits for ref in self._split_samples(split)]

    def load(self, sample: SampleRef) -> RawInstances:
        return load_instance_ids(sample, _RULE, self._images, self.max_pixels)

    @property
    def _images(self) -> Path:
        return self.root / "leftImg8bit"

    def _split_samples(self, split: str) -> list[SampleRef]:
        pairs, _ = pair_files(
            self._images / split,
            self.root / "gtFine" / split,
            keep_lone=self.skip_bad,
            image_ending="_leftImg8bit",
            mask_ending="_gtFine_instanceIds",
        )
        return [pair_ref(pair, split) for pair in pairs]
