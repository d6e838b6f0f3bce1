"""Cityscapes with its fine annotations: `leftImg8bit/` and `gtFine/*/*/*_gtFine_labelIds.png` or `_instanceIds.png`.

Masks have the 19 classes that Cityscapes evaluates, in the order of its train ids; every other label is ignored.
Instances have the eight of them that are objects, by label ids. Caravans (29) and trailers (30) are annotated but not
evaluated, so they are background. A group whose objects are not told apart is a crowd. The test images are left out:
their annotations are not published.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.formats.instance_ids import IdRule, load_instance_ids
from dist_seg.data.raw.classes import ClassTable
from dist_seg.data.raw.images import read_mask
from dist_seg.data.raw.listing import PairFolders, read_pair
from dist_seg.data.raw.source import RawInstances, RawReading, RawSample, SampleRef
from dist_seg.errors import DataError
from dist_seg.masks.palette import Rgb

# Name, label id and colour in the order of train ids, from the labels in cityscapesScripts.
_CLASSES: tuple[tuple[str, int, Rgb], ...] = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
_LICENSE_PLATE = -1
_LICENSE_PLATE_IN_8_BITS = 255
_IGNORED_LABELS = (*range(7), 9, 10, 14, 15, 16, 18, 29, 30, _LICENSE_PLATE_IN_8_BITS)
_TABLE = ClassTable(
    names=tuple(name for name, _, _ in _CLASSES),
    palette=tuple(color for _, _, color in _CLASSES),
    values={
        **{label: class_id for class_id, (_, label, _) in enumerate(_CLASSES)},
        **dict.fromkeys(_IGNORED_LABELS, IGNORE_INDEX),
    },
)

_FIRST_OBJECT = 11
_OBJECTS = _CLASSES[_FIRST_OBJECT:]
_NOT_EVALUATED = (29, 30)
_RULE = IdRule(
    classes={
        **{label: class_id for class_id, (_, label, _) in enumerate(_OBJECTS)},
        **dict.fromkeys(_NOT_EVALUATED, IGNORE_INDEX),
    },
    divisor=1000,
)
_SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class CityscapesSource:
    """The images below `root` with masks of classes."""

    root: Path
    reading: RawReading = RawReading()

    class_names: ClassVar[tuple[str, ...]] = _TABLE.names
    palette: ClassVar[tuple[Rgb, ...]] = _TABLE.palette
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def samples(self) -> Sequence[SampleRef]:
        return _samples(self.root, "_gtFine_labelIds", self.reading)

    def load(self, sample: SampleRef) -> RawSample:
        image, mask_file = read_pair(sample)
        mask = read_mask(mask_file, sample.mask_where, self.reading.max_pixels)
        if mask.is_color:
            raise DataError(f"{sample.mask_where}: a mask in colours; Cityscapes' labelIds are grey label ids")
        labels = np.where(mask.values == _LICENSE_PLATE, _LICENSE_PLATE_IN_8_BITS, mask.values)
        return RawSample(image=image, mask=_TABLE.class_ids(replace(mask, values=labels), sample.mask_where))


@dataclass(frozen=True, kw_only=True)
class CityscapesInstances:
    """The images below `root` with objects."""

    root: Path
    reading: RawReading = RawReading()

    task: ClassVar[Literal["instance"]] = "instance"
    class_names: ClassVar[tuple[str, ...]] = tuple(name for name, _, _ in _OBJECTS)
    category_ids: ClassVar[tuple[int, ...]] = tuple(label for _, label, _ in _OBJECTS)
    palette: ClassVar[tuple[Rgb, ...]] = tuple(color for _, _, color in _OBJECTS)
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def samples(self) -> Sequence[SampleRef]:
        return _samples(self.root, "_gtFine_instanceIds", self.reading)

    def load(self, sample: SampleRef) -> RawInstances:
        return load_instance_ids(sample, _RULE, _images(self.root), self.reading.max_pixels)


def _images(root: Path) -> Path:
    return root / "leftImg8bit"


def _samples(root: Path, mask_ending: str, reading: RawReading) -> list[SampleRef]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    splits = [split for split in _SPLITS if (_images(root) / split).is_dir()]
    if not splits:
        raise DataError(f"{root}: holds neither leftImg8bit/train nor leftImg8bit/val; is this Cityscapes?")
    folders = (
        PairFolders(
            images=_images(root) / split,
            masks=root / "gtFine" / split,
            split=split,
            image_ending="_leftImg8bit",
            mask_ending=mask_ending,
        )
        for split in splits
    )
    return [ref for pairs in folders for ref in pairs.refs(reading)]
