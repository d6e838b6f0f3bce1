"""Writers of raw data sets in every layout: the inverse of what the formats read.

A writer gets pictures by name with their class ids, 255 for ignored pixels, and writes them in its layout. Numbers and
colours are listed here instead of being imported from the formats.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.formats.ade20k import open_ade20k
from dist_seg.data.formats.camvid import CamvidSource
from dist_seg.data.formats.cityscapes import CityscapesSource
from dist_seg.data.formats.coco.panoptic import open_coco_panoptic
from dist_seg.data.formats.coco.stuff import open_coco_stuff
from dist_seg.data.formats.folder import open_folder
from dist_seg.data.formats.labelme.source import open_labelme
from dist_seg.data.formats.voc.labels import voc_colors
from dist_seg.data.formats.voc.source import open_voc
from dist_seg.data.raw.source import RawSample, SampleRef, Source
from dist_seg.data.raw.splitting import Dividing

from .raw_data import write_image

Ids = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """The file of a picture, and its mask."""

    suffix: str
    image: bytes
    ids: Ids

    def write(self, path: str | Path, stem: str) -> str:
        """Write the picture into a folder; returns the file's name."""
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / f"{stem}{self.suffix}").write_bytes(self.image)
        return f"{stem}{self.suffix}"


Samples = Mapping[str, Sample]

_COLORS = np.stack([np.random.default_rng(seed).permutation(256) for seed in range(3)], axis=1).astype(np.uint8)
# Label ids of Cityscapes by train id.
_CITYSCAPES_LABELS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# Some of COCO's category ids, by class id.
_CATEGORIES = (1, 13, 44, 92, 137, 182, 200)


def _numbers(ids: Ids, numbers: tuple[int, ...], ignored: int) -> Ids:
    table = np.zeros(256, np.uint8)
    table[: len(numbers)] = numbers
    table[255] = ignored
    return np.asarray(table[ids])


def _folder(root: Path, samples: Samples) -> Source:
    for stem, sample in samples.items():
        sample.write(root / "images", stem)
        write_image(root / "masks" / f"{stem}.png", sample.ids)
    (root / "classes.txt").write_text("\n".join(f"c{i}" for i in range(9)))
    return open_folder(root / "images", root / "masks", dividing=Dividing(val=0.0))


def _folder_of_colors(root: Path, samples: Samples) -> Source:
    for stem, sample in samples.items():
        sample.write(root / "images", stem)
        write_image(root / "masks" / f"{stem}.png", _COLORS[sample.ids])
    names = {**{i: f"c{i}" for i in range(9)}, 255: "void"}
    lines = (f"{' '.join(map(str, _COLORS[i]))} {name}" for i, name in names.items())
    (root / "colors.txt").write_text("\n".join(lines))
    return open_folder(root / "images", root / "masks", dividing=Dividing(val=0.0))


def _camvid(root: Path, samples: Samples) -> Source:
    for stem, sample in samples.items():
        sample.write(root / "train", stem)
        write_image(root / "trainannot" / f"{stem}.png", np.where(sample.ids == 255, 11, sample.ids))
    return CamvidSource(root=root)


def _voc_lists(root: Path, samples: Samples) -> None:
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(samples))


def _voc(root: Path, samples: Samples) -> Source:
    for stem, sample in samples.items():
        sample.write(root / "JPEGImages", stem)
        write_image(root / "SegmentationClass" / f"{stem}.png", sample.ids, np.ravel(voc_colors(256)).tolist())
    _voc_lists(root, samples)
    return open_voc(root)


def _voc_of_cvat(root: Path, samples: Samples) -> Source:
    for stem, sample in samples.items():
        sample.write(root / "JPEGImages", stem)
        write_image(root / "SegmentationClass" / f"{stem}.png", _COLORS[sample.ids])
    _voc_lists(root, samples)
    names = {**{i: f"c{i}" for i in range(9)}, 255: "ignored"}
    lines = (f"{name}:{','.join(map(str, _COLORS[i]))}::" for i, name in names.items())
    (root / "labelmap.txt").write_text("\n".join(lines))
    return open_voc(root)


def _cityscapes(root: Path, samples: Samples) -> Source:
    for stem, sample in samples.items():
        sample.write(root / "leftImg8bit/train/ulm", f"{stem}_leftImg8bit")
        labels = _numbers(sample.ids, _CITYSCAPES_LABELS, ignored=3)
        write_image(root / f"gtFine/train/ulm/{stem}_gtFine_labelIds.png", labels)
    return CityscapesSource(root=root)


def _ade20k(root: Path, samples: Samples) -> Source:
    for stem, sample in samples.items():
        sample.write(root / "images/training", stem)
        write_image(root / f"annotations/training/{stem}.png", _numbers(sample.ids, tuple(range(1, 151)), ignored=0))
    return open_ade20k(root)


def _coco_panoptic(root: Path, samples: Samples) -> Source:
    images, annotations = [], []
    for number, (stem, sample) in enumerate(samples.items(), 1):
        height, width = sample.ids.shape
        name = sample.write(root / "train2017", stem)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        segments = np.random.default_rng(number).choice(2**24 - 1, 256, replace=False) + 1
        segments[255] = 0
        values = segments[sample.ids]
        png = np.stack([values & 255, values >> 8 & 255, values >> 16], axis=-1).astype(np.uint8)
        write_image(root / f"annotations/panoptic_train2017/{stem}.png", png)
        listed = [{"id": int(segments[i]), "category_id": category} for i, category in enumerate(_CATEGORIES)]
        annotations.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": listed})
    categories = [{"id": category, "name": f"c{category}", "isthing": 0} for category in _CATEGORIES]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/panoptic_train2017.json").write_text(json.dumps(document))
    return open_coco_panoptic(root)


def _stuffthingmaps(root: Path, samples: Samples) -> Source:
    for stem, sample in samples.items():
        sample.write(root / "images/train2017", stem)
        # The labels up to 11, fire hydrant, are classes without a gap.
        write_image(root / f"annotations/train2017/{stem}.png", sample.ids)
    return open_coco_stuff(root, numbering="stuffthingmaps")


def _category_ids(root: Path, samples: Samples) -> Source:
    for stem, sample in samples.items():
        sample.write(root / "train2017", stem)
        write_image(root / f"semantic/train2017/{stem}.png", _numbers(sample.ids, _CATEGORIES, ignored=0))
    listed = [{"id": category, "name": f"c{category}"} for category in reversed(_CATEGORIES)]
    (root / "categories.json").write_text(json.dumps({"categories": listed}))
    return open_coco_stuff(root, numbering="category-ids", categories=root / "categories.json")


def _labelme(root: Path, samples: Samples) -> Source:
    """Each run of a class in a row is a rectangle. All pictures except the first are embedded."""
    root.mkdir()
    for number, (stem, sample) in enumerate(samples.items()):
        height, width = sample.ids.shape
        shapes = []
        for y, row in enumerate(sample.ids.tolist()):
            starts = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), width]
            for first, end in pairwise(starts):
                label = "__ignore__" if row[first] == 255 else f"c{row[first]}"
                shapes.append({"label": label, "points": [[first, y], [end - 1, y]], "shape_type": "rectangle"})
        data = base64.b64encode(sample.image).decode() if number else None
        name = f"{stem}{sample.suffix}" if number else sample.write(root, stem)
        size = {"imageHeight": height, "imageWidth": width}
        document = {"shapes": shapes, "imagePath": name, "imageData": data, **size}
        (root / f"{stem}.json").write_text(json.dumps(document))
    (root / "labels.txt").write_text("__ignore__\n" + "\n".join(f"c{i}" for i in range(9)))
    return open_labelme(root, unlabelled="ignore", dividing=Dividing(val=0.0))


@dataclass(frozen=True)
class _Reader:
    """A reader of the user's own."""

    data: Samples
    class_names: tuple[str, ...] = tuple(f"c{i}" for i in range(9))
    palette: tuple[tuple[int, int, int], ...] = ((0, 0, 0),) * 9
    ignore_index: int = 255

    def samples(self) -> list[SampleRef]:
        return [SampleRef(key=stem, split="train", where=stem) for stem in self.data]

    def load(self, sample: SampleRef) -> RawSample:
        return RawSample(image=self.data[sample.key].image, mask=self.data[sample.key].ids)


def _reader(root: Path, samples: Samples) -> Source:
    return _Reader(samples)


@dataclass(frozen=True)
class Layout:
    """A layout: the function that writes it, and how many of its classes are drawn."""

    write: Callable[[Path, Samples], Source]
    num_classes: int


LAYOUTS = {
    "folder": Layout(_folder, 9),
    "folder of colours": Layout(_folder_of_colors, 9),
    "camvid": Layout(_camvid, 11),
    "voc": Layout(_voc, 21),
    "voc of cvat": Layout(_voc_of_cvat, 9),
    "cityscapes": Layout(_cityscapes, 19),
    "ade20k": Layout(_ade20k, 150),
    "coco-panoptic": Layout(_coco_panoptic, 7),
    "coco-stuff, stuffthingmaps": Layout(_stuffthingmaps, 11),
    "coco-stuff, category-ids": Layout(_category_ids, 7),
    "labelme": Layout(_labelme, 9),
    "reader": Layout(_reader, 9),
}
