"""ADE20K as published for its scene parsing benchmark with 150 classes (ADEChallengeData2016).

Images lie in `images/training/` and `images/validation/`, masks in `annotations/` likewise. Masks are grey PNGs of the
numbers 1 to 150, and 0 for unlabelled pixels, which are ignored.
"""

from pathlib import Path

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.raw.classes import ClassTable
from dist_seg.data.raw.listing import PairFolders
from dist_seg.data.raw.mask_source import MaskSource
from dist_seg.data.raw.source import RawReading, check_classes
from dist_seg.errors import DataError
from dist_seg.masks.palette import default_palette

_NUM_CLASSES = 150
_INFO_NAME = "objectInfo150.txt"
_SPLITS = {"training": "train", "validation": "val"}
# The first of each class's synonyms in objectInfo150.txt, in its order.
_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat,
fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower,
chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land, bannister, escalator,
ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool,
stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot,
animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan,
pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
ADE20K_NAMES = tuple(name.strip() for name in _NAMES.split(","))


def open_ade20k(root: Path, *, reading: RawReading = RawReading()) -> MaskSource:
    """The data set below `root`, with the names in its `objectInfo150.txt` if there is one.

    Raises `DataError` for a folder without images of a known split.
    """
    if not root.is_dir():
        raise DataError("no such folder", where=root)
    folders = tuple(
        PairFolders(images=root / "images" / name, masks=root / "annotations" / name, split=split)
        for name, split in _SPLITS.items()
        if (root / "images" / name).is_dir()
    )
    if not folders:
        raise DataError(
            "holds neither images/training nor images/validation; is this ADEChallengeData2016?", where=root
        )
    info = root / _INFO_NAME
    classes = ClassTable(
        names=_read_names(info) if info.is_file() else ADE20K_NAMES,
        palette=default_palette(_NUM_CLASSES),
        values={0: IGNORE_INDEX, **{number: number - 1 for number in range(1, _NUM_CLASSES + 1)}},
        numbered=True,
        grey_only=True,
    )
    notes = (f"classes from {info}",) if info.is_file() else ()
    return MaskSource(folders=folders, classes=classes, fixed_numbers=True, reading=reading, notes=notes)


def _read_names(info: Path) -> tuple[str, ...]:
    """The first synonym of every class. Raises `DataError` if the table does not list the classes 1 to 150."""
    try:
        header, *rows = [line.split("\t") for line in info.read_text("utf-8-sig").splitlines() if line.strip()]
        column = [title.strip() for title in header].index("Name")
        listed = [(int(row[0]), row[column].split(",")[0].strip()) for row in rows]
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{info}: not a table with tabs between the columns Idx, ... and Name ({error})") from error
    if [number for number, _ in listed] != [*range(1, _NUM_CLASSES + 1)]:
        raise DataError(f"{info}: must have the lines 1 to {_NUM_CLASSES}, in order; it has {len(listed)}")
    names = tuple(name for _, name in listed)
    check_classes(names, str(info))
    return names
