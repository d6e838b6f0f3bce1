"""COCO-Stuff, and other PNGs of COCO's category ids: one class id a pixel, things and stuff alike.

Two ways of numbering are about, and nothing in a file tells them apart. COCO-Stuff's own `stuffthingmaps` hold the
label less one, and 255 where nobody labelled; others hold the category's id, and 0 where nobody labelled.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.formats.coco.splits import check_split_names, images_of, split_name
from dist_seg.data.raw.classes import ClassTable, read_class_ids, read_classes
from dist_seg.data.raw.images import read_file
from dist_seg.data.raw.listing import pair_files, pair_ref, read_pair
from dist_seg.data.raw.meaning import Meaning
from dist_seg.data.raw.source import RawReading, RawSample, SampleRef, check_classes
from dist_seg.errors import DataError
from dist_seg.masks.palette import Rgb, default_palette

Numbering = Literal["stuffthingmaps", "category-ids"]

_MASK_FOLDERS = ("annotations", "stuffthingmaps", "stuffthingmaps_trainval2017", "semantic")
_MAX_NUMBER = 65535
# COCO-Stuff's labels from 1 on, and those that have no pixel in any mask.
_THINGS = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat, backpack,
umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon, bowl, banana,
apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, mirror,
dining table, window, desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster,
sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush
"""
_STUFF = """
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile,
cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other,
floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill,
house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other,
plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other,
skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree,
vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops,
window-blind, window-other, wood
"""
_WITHOUT_PIXELS = frozenset(
    {"street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender", "hair brush"}
)
COCO_STUFF_LABELS: Mapping[int, str] = {
    number: name
    for number, name in enumerate((name.strip() for name in f"{_THINGS.strip()}, {_STUFF.strip()}".split(",")), 1)
    if name not in _WITHOUT_PIXELS
}


@dataclass(frozen=True, kw_only=True)
class CocoStuffPart:
    """A split with its two folders."""

    name: str
    images: Path
    masks: Path


@dataclass(frozen=True, kw_only=True)
class CocoStuffSource:
    """Made by `open_coco_stuff`."""

    parts: tuple[CocoStuffPart, ...]
    classes: ClassTable
    reading: RawReading = RawReading()
    notes: tuple[str, ...] = ()
    """What the user should see before packing."""
    ignore_index: int = IGNORE_INDEX

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes.names

    @property
    def palette(self) -> tuple[Rgb, ...]:
        return self.classes.palette

    @property
    def meaning(self) -> Meaning:
        """For a later run."""
        return self.classes.meaning

    def samples(self) -> Sequence[SampleRef]:
        version = self.classes.version
        refs = []
        for part in self.parts:
            pairs, _ = pair_files(part.images, part.masks, keep_lone=self.reading.skip_bad)
            refs += [pair_ref(pair, part.name, version) for pair in pairs]
        return refs

    def load(self, sample: SampleRef) -> RawSample:
        image, mask_file = read_pair(sample)
        mask = read_class_ids(mask_file, sample.mask_where, self.classes, self.reading.max_pixels)
        return RawSample(image=image, mask=mask)


def open_coco_stuff(
    root: Path,
    parts: Sequence[tuple[str, Path, Path]] = (),
    *,
    numbering: Numbering,
    categories: Path | None = None,
    reading: RawReading = RawReading(),
) -> CocoStuffSource:
    """The data set below `root`, or the given parts: split, folder of images, folder of masks, each.

    numbering: what the masks' numbers are. categories: a JSON file of COCO's, or lines of `number name`, in whose order
    of ids the classes come; None takes the 171 labels that COCO-Stuff's masks have. Raises `DataError`.
    """
    note = f"classes from {categories}" if categories else "the classes are COCO-Stuff's (--categories gives others)"
    found = [CocoStuffPart(name=name, images=images, masks=masks) for name, images, masks in parts]
    names = _read_categories(categories) if categories else COCO_STUFF_LABELS
    return CocoStuffSource(
        parts=tuple(found or _found_parts(root)),
        classes=_table(names, numbering, str(categories)),
        reading=reading,
        notes=(note,),
    )


def _table(names: Mapping[int, str], numbering: Numbering, where: str) -> ClassTable:
    ids = sorted(names)
    shift, unlabelled = (1, IGNORE_INDEX) if numbering == "stuffthingmaps" else (0, 0)
    if wrong := [number for number in ids if number - shift == unlabelled or not 0 < number <= _MAX_NUMBER]:
        raise DataError(
            f"{where}: the id {wrong[0]} is not from 1 to {_MAX_NUMBER}, or stands for unlabelled pixels ({numbering})"
        )
    return ClassTable(
        names=tuple(names[number] for number in ids),
        palette=default_palette(len(ids)),
        values={unlabelled: IGNORE_INDEX, **{number - shift: i for i, number in enumerate(ids)}},
    )


def _read_categories(path: Path) -> Mapping[int, str]:
    """Names by category id; 0, where a list of labels has it, is no category."""
    if path.suffix.lower() != ".json":
        table = read_classes(path)
        if not table.numbered:
            raise DataError(f"{path}: every line must be `number name`, such as `1 person`")
        return {number: table.names[i] for number, i in table.values.items() if i != IGNORE_INDEX and number != 0}
    try:
        document = json.loads(read_file(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    match document:
        case {"categories": [*entries]}:
            names = dict(_category(entry, path) for entry in entries)
        case _:
            raise DataError(f"{path}: has no list of categories")
    if len(names) < len(entries):
        raise DataError(f"{path}: a category's id stands there twice")
    check_classes(list(names.values()), str(path))
    return names


def _category(entry: object, path: Path) -> tuple[int, str]:
    match entry:
        case {"id": int(number), "name": str(name)}:
            return number, name
    raise DataError(f"{path}: a category without an integer id or a name: {str(entry)[:80]}")


def _found_parts(root: Path) -> list[CocoStuffPart]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    parts = []
    for parent in (root / name for name in _MASK_FOLDERS):
        for masks in sorted(parent.iterdir()) if parent.is_dir() else []:
            images = images_of(root, masks.name)
            if masks.is_dir() and images is not None and images != masks:
                parts.append(CocoStuffPart(name=split_name(masks.name), images=images, masks=masks))
    if not parts:
        raise DataError(
            f"{root}: no masks in {', '.join(f'{name}/NAME' for name in _MASK_FOLDERS)} with images in NAME or "
            "images/NAME; give each part with --split"
        )
    check_split_names(root, [part.name for part in parts])
    return parts
