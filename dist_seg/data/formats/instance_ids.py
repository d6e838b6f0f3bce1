"""Images with grey PNGs of object ids: 0 is background, every other value is one object.

Either all objects have one class, or a value holds its class as in Cityscapes: `class * divisor + number`. A value
below the divisor is a class alone: a group whose objects are not told apart.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.formats.folder import CLASSES_NAME, divided_folders, file_beside, ignored_files
from dist_seg.data.raw.classes import read_classes
from dist_seg.data.raw.images import read_mask
from dist_seg.data.raw.listing import PairFolders, read_pair
from dist_seg.data.raw.source import RawInstances, RawReading, SampleRef
from dist_seg.data.raw.splitting import Dividing, Division
from dist_seg.errors import DataError, UserError
from dist_seg.masks.palette import Rgb, default_palette
from dist_seg.masks.rle import encode_masks

_ONE_CLASS = "object"


@dataclass(frozen=True, kw_only=True)
class IdRule:
    """What the value of a pixel means."""

    classes: Mapping[int, int] = field(default_factory=dict)
    """Class id of every class number; the ignore index for a class whose objects are left out."""
    divisor: int | None = None
    """What the class is multiplied by. None: every value above 0 is an object of class 0."""

    def objects(self, ids_HW: NDArray[np.integer], where: str) -> tuple[RawObject, ...]:
        """The objects of a mask, sorted by value, which is the object's id.

        Raises `DataError` naming a value without a class and its position.
        """
        values = np.unique(ids_HW).tolist()
        found = [(value, *self._class_of(value, ids_HW, where)) for value in values if value != 0]
        return tuple(
            RawObject(id=value, class_id=class_id, crowd=crowd, rle=encode_masks((ids_HW == value)[None])[0][0])
            for value, class_id, crowd in found
            if class_id != IGNORE_INDEX
        )

    def _class_of(self, value: int, ids_HW: NDArray[np.integer], where: str) -> tuple[int, bool]:
        """Class id of a value, the ignore index if it is no object, and whether it is a group."""
        if self.divisor is None:
            return 0, False
        if 0 < value < self.divisor:  # a class that is not listed is background
            return self.classes.get(value, IGNORE_INDEX), True
        if (number := value // self.divisor) in self.classes:
            return self.classes[number], False
        wrong = ids_HW == value
        y, x = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise DataError(
            f"{where}: value {value} at (x={x}, y={y}) ({int(wrong.sum())} such pixels) is an object of class "
            f"{number}, which is not among the classes ({', '.join(map(str, self.classes))}); name it, or use the "
            "name 'ignore' to leave its objects out"
        )


@dataclass(frozen=True, kw_only=True)
class InstanceIdSource:
    """Made by `open_instance_ids`."""

    folders: PairFolders
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    rule: IdRule
    reading: RawReading = RawReading()
    notes: tuple[str, ...] = ()
    """Messages for the user before packing."""

    task: ClassVar[Literal["instance"]] = "instance"
    ignore_index: ClassVar[int] = IGNORE_INDEX

    @property
    def palette(self) -> tuple[Rgb, ...]:
        return default_palette(len(self.class_names) + 1)[1:]  # the first is the background's

    @property
    def division(self) -> Division | None:
        return self.folders.division

    def samples(self) -> Sequence[SampleRef]:
        return self.folders.refs(self.reading, hashlib.sha256(repr(self.rule).encode()).hexdigest()[:16])

    def load(self, sample: SampleRef) -> RawInstances:
        return load_instance_ids(sample, self.rule, self.folders.images, self.reading.max_pixels)


def load_instance_ids(sample: SampleRef, rule: IdRule, images: Path, max_pixels: int) -> RawInstances:
    """The objects in a pair of files. Results name the image by its path below `images`."""
    image, mask_file = read_pair(sample)
    mask = read_mask(mask_file, sample.mask_where, max_pixels)
    if mask.is_color:
        raise DataError(
            f"{sample.mask_where}: in colours, {tuple(mask.values[0, 0].tolist())} at (x=0, y=0); object ids must be "
            "grey values of 8 or 16 bits"
        )
    height, width = mask.values.shape
    file_name = Path(sample.where).relative_to(images).as_posix()
    return RawInstances(
        image=image,
        objects=rule.objects(mask.values, sample.mask_where),
        height=height,
        width=width,
        image_id=_image_id(file_name),
        file_name=file_name,
    )


def open_instance_ids(
    images: Path,
    masks: Path,
    *,
    classes: Path | None = None,
    divisor: int | None = None,
    dividing: Dividing = Dividing(),
    reading: RawReading = RawReading(),
) -> InstanceIdSource:
    """The data set in two folders. Masks are read when they are packed.

    classes: a text file; None takes `classes.txt` from the masks' folder, the folder above it or the folder above the
    images, if it is there. Without `divisor` it may hold one name; with `divisor` it is required, and lists the classes
    with their numbers. Raises `UserError` for options that do not go together.
    """
    folders, _, others = divided_folders(images, masks, dividing, reading)
    classes = classes or file_beside(images, masks, CLASSES_NAME)
    names: tuple[str, ...] = (_ONE_CLASS,)
    numbers: tuple[int, ...] = (1,)
    rule = IdRule()
    if divisor is not None:
        names, numbers, rule = _numbered_classes(classes, divisor, masks)
    elif classes is not None:
        names = read_classes(classes).names
        if len(names) != 1:
            raise UserError(
                f"{classes}: names {len(names)} classes, but without --divisor all objects have one class; give a file "
                "with one name, or --divisor if values hold the class"
            )
    notes = [f"classes from {classes}"] if classes else [f"every value except 0 is an object of the class {names[0]!r}"]
    notes += ignored_files(others, (CLASSES_NAME,))
    return InstanceIdSource(
        folders=folders,
        class_names=names,
        category_ids=numbers,
        rule=rule,
        reading=reading,
        notes=tuple(notes),
    )


def _numbered_classes(
    classes: Path | None, divisor: int, masks: Path
) -> tuple[tuple[str, ...], tuple[int, ...], IdRule]:
    """Names and numbers of the classes, and what values mean."""
    if divisor < 2:
        raise UserError(f"{masks}: --divisor is {divisor}; give the factor of the class, such as 1000")
    if classes is None:
        raise UserError(
            f"{masks}: with --divisor {divisor} values hold classes, which need names; give a file with lines "
            "`number name` (--classes)"
        )
    table = read_classes(classes)
    if not table.numbered:
        raise UserError(f"{classes}: with --divisor every line must be `number name`, such as `24 person`")
    values = {number: class_id for number, class_id in table.values.items() if number > 0}
    if wrong := [number for number in values if number >= divisor and number != IGNORE_INDEX]:
        raise UserError(f"{classes}: class number {wrong[0]} is not below the divisor {divisor}")
    if 0 in table.values and table.values[0] != IGNORE_INDEX:
        raise UserError(f"{classes}: class number 0 is {table.names[table.values[0]]!r}, but 0 is the background")
    by_class = {class_id: number for number, class_id in values.items() if class_id != IGNORE_INDEX}
    numbers = tuple(by_class[class_id] for class_id in range(len(table.names)))
    return table.names, numbers, IdRule(classes=values, divisor=divisor)


def _image_id(file_name: str) -> int:
    """The image's number in results, made from its name alone, so other files do not change it."""
    return int.from_bytes(hashlib.sha256(file_name.encode(errors="surrogatepass")).digest()[:6], "big")
