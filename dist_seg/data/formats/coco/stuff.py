"""COCO-Stuff, and other PNGs of COCO's category ids: one class for each pixel, things and stuff alike.

Two numberings exist, and nothing in a file tells them apart. The `stuffthingmaps` of COCO-Stuff hold the label minus
one, and 255 for unlabelled pixels. Others hold the category id, and 0 for unlabelled pixels.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.formats.coco.splits import check_split_names, images_of, split_name
from dist_seg.data.raw.classes import ClassTable, read_classes
from dist_seg.data.raw.images import read_file
from dist_seg.data.raw.listing import PairFolders
from dist_seg.data.raw.mask_source import MaskSource
from dist_seg.data.raw.source import RawReading, check_classes
from dist_seg.errors import DataError
from dist_seg.masks.palette import default_palette
from dist_seg.runtime.documents import convert

Numbering = Literal["stuffthingmaps", "category-ids"]

_MASK_FOLDERS = ("annotations", "stuffthingmaps", "stuffthingmaps_trainval2017", "semantic")
_MAX_NUMBER = 65535
# The labels of COCO-Stuff, counted from 1, and those without a pixel in any mask.
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
class _Category:
    id: int
    name: str


@dataclass(frozen=True, kw_only=True)
class _CategoryFile:
    categories: list[_Category]


def open_coco_stuff(
    root: Path,
    splits: Sequence[tuple[str, Path, Path]] = (),
    *,
    numbering: Numbering,
    categories: Path | None = None,
    reading: RawReading = RawReading(),
) -> MaskSource:
    """The data set below `root`, or the given splits, each with name, folder of images and folder of masks.

    numbering: what the numbers in masks are. categories: a JSON file like COCO's, or a text file with lines `number
    name`; classes follow the order of the ids. None takes the 171 labels that occur in COCO-Stuff's masks. Raises
    `DataError`.
    """
    note = f"classes from {categories}" if categories else "classes of COCO-Stuff (--categories gives others)"
    folders = tuple(PairFolders(images=images, masks=masks, split=split) for split, images, masks in splits)
    names = _read_categories(categories) if categories else COCO_STUFF_LABELS
    return MaskSource(
        folders=folders or _found_folders(root),
        classes=_table(names, numbering, str(categories)),
        reading=reading,
        notes=(note,),
    )


def _table(names: Mapping[int, str], numbering: Numbering, where: str) -> ClassTable:
    ids = sorted(names)
    shift, unlabelled = (1, IGNORE_INDEX) if numbering == "stuffthingmaps" else (0, 0)
    if wrong := [number for number in ids if number - shift == unlabelled or not 0 < number <= _MAX_NUMBER]:
        raise DataError(
            f"{where}: the id {wrong[0]} is not from 1 to {_MAX_NUMBER}, or means unlabelled pixels ({numbering})"
        )
    return ClassTable(
        names=tuple(names[number] for number in ids),
        palette=default_palette(len(ids)),
        values={unlabelled: IGNORE_INDEX, **{number - shift: i for i, number in enumerate(ids)}},
        grey_only=True,
    )


def _read_categories(path: Path) -> Mapping[int, str]:
    """Names by category id. 0 is no category, even if a list of labels has it."""
    if path.suffix.lower() != ".json":
        table = read_classes(path)
        if not table.numbered:
            raise DataError(f"{path}: every line must be `number name`, such as `1 person`")
        return {number: table.names[i] for number, i in table.values.items() if i != IGNORE_INDEX and number != 0}
    try:
        document = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", where=path) from error
    categories = convert(document, _CategoryFile, str(path)).categories
    names = {category.id: category.name for category in categories}
    if len(names) < len(categories):
        raise DataError("two categories have the same id", where=path)
    check_classes(list(names.values()), str(path))
    return names


def _found_folders(root: Path) -> tuple[PairFolders, ...]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    found = []
    for parent in (root / name for name in _MASK_FOLDERS):
        for masks in sorted(parent.iterdir()) if parent.is_dir() else []:
            images = images_of(root, masks.name)
            if masks.is_dir() and images is not None and images != masks:
                found.append((split_name(masks.name), images, masks))
    if not found:
        raise DataError(
            f"no masks in {', '.join(f'{name}/NAME' for name in _MASK_FOLDERS)} with images in NAME or images/NAME; "
            "give each split with --split",
            where=root,
        )
    check_split_names(root, [split for split, _, _ in found])
    return tuple(PairFolders(images=images, masks=masks, split=split) for split, images, masks in found)
