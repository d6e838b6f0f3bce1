"""ADE20K as its scene parsing benchmark of 150 classes has it (ADEChallengeData2016).

`images/training/` with `annotations/training/`, and `validation` in the same way: grey PNGs of the numbers 1 to 150,
and 0 for pixels that nobody labelled, which are ignored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.raw.classes import ClassTable, read_class_ids
from dist_seg.data.raw.listing import pair_files, pair_ref, read_pair
from dist_seg.data.raw.source import RawReading, RawSample, SampleRef, check_classes
from dist_seg.errors import DataError
from dist_seg.masks.palette import Rgb, default_palette

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


@dataclass(frozen=True, kw_only=True)
class Ade20kSource:
    """Made by `open_ade20k`."""

    root: Path
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

    def samples(self) -> Sequence[SampleRef]:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder")
        folders = [name for name in _SPLITS if (self.root / "images" / name).is_dir()]
        if not folders:
            raise DataError(
                f"{self.root}: holds neither images/training nor images/validation; is this ADEChallengeData2016?"
            )
        refs = []
        for name in folders:
            images, masks = self.root / "images" / name, self.root / "annotations" / name
            pairs, _ = pair_files(images, masks, keep_lone=self.reading.skip_bad)
            refs += [pair_ref(pair, _SPLITS[name]) for pair in pairs]
        return refs

    def load(self, sample: SampleRef) -> RawSample:
        image, mask_file = read_pair(sample)
        mask = read_class_ids(mask_file, sample.mask_where, self.classes, self.reading.max_pixels)
        return RawSample(image=image, mask=mask)


def open_ade20k(root: Path, *, reading: RawReading = RawReading()) -> Ade20kSource:
    """The data set below `root`, with the names in its `objectInfo150.txt` where there is one."""
    info = root / _INFO_NAME
    names = _read_names(info) if info.is_file() else ADE20K_NAMES
    values = {number: number - 1 for number in range(1, _NUM_CLASSES + 1)}
    table = ClassTable(
        names=names, palette=default_palette(_NUM_CLASSES), values={0: IGNORE_INDEX, **values}, numbered=True
    )
    notes = (f"classes from {info}",) if info.is_file() else ()
    return Ade20kSource(root=root, classes=table, reading=reading, notes=notes)


def _read_names(info: Path) -> tuple[str, ...]:
    """The first synonym of every class. Raises `DataError` for another table than of the classes 1 to 150."""
    try:
        header, *rows = [line.split("\t") for line in info.read_text("utf-8-sig").splitlines() if line.strip()]
        place = [title.strip() for title in header].index("Name")
        listed = [(int(row[0]), row[place].split(",")[0].strip()) for row in rows]
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{info}: not a table of the columns Idx, ... and Name, parted by tabs ({error})") from error
    if [number for number, _ in listed] != [*range(1, _NUM_CLASSES + 1)]:
        raise DataError(f"{info}: must have the lines 1 to {_NUM_CLASSES}, in order; it has {len(listed)}")
    names = tuple(name for _, name in listed)
    check_classes(names, str(info))
    return names
