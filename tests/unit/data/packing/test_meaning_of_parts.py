"""Parts of a data set whose machines take the same masks for other classes: not merged, whatever the format."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dist_seg.data.formats.coco.instances import open_coco
from dist_seg.data.formats.coco.stuff import open_coco_stuff
from dist_seg.data.formats.folder import open_folder
from dist_seg.data.formats.instance_ids import open_instance_ids
from dist_seg.data.formats.label_folders import open_label_folders
from dist_seg.data.formats.labelme.source import open_labelme
from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.formats.voc.source import open_voc
from dist_seg.data.packing.merge import merge
from dist_seg.data.packing.pack import pack
from dist_seg.data.packing.parts import Part
from dist_seg.data.raw.source import AnySource
from dist_seg.errors import DataError

from ..raw_data import picture, write_image


def _images_and_masks(root: Path, value: int) -> tuple[Path, Path]:
    for number in range(6):
        write_image(root / "images" / f"{number}.png", picture(8, 8))
        write_image(root / "masks" / f"{number}.png", np.full((8, 8), value, np.uint8))
    return root / "images", root / "masks"


def _folder(root: Path, other: bool) -> AnySource:
    images, masks = _images_and_masks(root, 1)
    (root / "classes.txt").write_text("0 a\n2 cat\n1 dog\n" if other else "0 a\n1 cat\n2 dog\n")
    return open_folder(images, masks, classes=root / "classes.txt")


def _folder_of_colors(root: Path, other: bool) -> AnySource:
    images, masks = _images_and_masks(root, 1)
    (root / "classes.txt").write_text("cat\ndog\n")
    (root / "colors.txt").write_text("0 0 0 cat\n1 1 1 dog\n2 2 2 " + ("cat\n" if other else "dog\n"))
    return open_folder(images, masks, classes=root / "classes.txt", colors=root / "colors.txt")


def _voc(root: Path, other: bool) -> AnySource:
    _images_and_masks(root, 1)
    (root / "images").rename(root / "JPEGImages")
    (root / "masks").rename(root / "SegmentationClass")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("".join(f"{number}\n" for number in range(6)))
    (root / "classes.txt").write_text("1 cat\n0 dog\n" if other else "0 cat\n1 dog\n")
    return open_voc(root, classes=root / "classes.txt")


def _coco_stuff(root: Path, other: bool) -> AnySource:
    images, masks = _images_and_masks(root, 1)
    return open_coco_stuff(root, [("train", images, masks)], numbering="category-ids" if other else "stuffthingmaps")


def _label_folders(root: Path, other: bool) -> AnySource:
    images, masks = _images_and_masks(root, 1)
    masks.rename(root / "cat")
    (root / "masks").mkdir()
    (root / "cat").rename(root / "masks" / "cat")
    return open_label_folders(images, root / "masks", unknown=1 if other else None)


def _instances(root: Path, other: bool) -> AnySource:
    images, masks = _images_and_masks(root, 100)
    (root / "classes.txt").write_text("1 cat\n2 dog\n")
    return open_instance_ids(images, masks, classes=root / "classes.txt", divisor=1000 if other else 50)


def _labelme(root: Path, other: bool) -> AnySource:
    for number in range(6):
        write_image(root / f"{number}.png", picture(8, 8))
        shape = {"label": "cat", "points": [[0, 0], [4, 4]], "shape_type": "rectangle"}
        document = {"shapes": [shape], "imagePath": f"{number}.png", "imageHeight": 8, "imageWidth": 8}
        (root / f"{number}.json").write_text(json.dumps(document))
    (root / "classes.txt").write_text("_background_\ncat\n")
    return open_labelme(root, classes=root / "classes.txt", unlabelled="ignore" if other else "background")


def _coco(root: Path, other: bool) -> AnySource:
    """The annotations have as many bytes."""
    images, _ = _images_and_masks(root, 1)
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in range(6)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i,
                "category_id": 2 if other else 1,
                "iscrowd": 0,
                "segmentation": [[0, 0, 4, 0, 4, 4]],
            }
            for i in range(6)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (root / "instances.json").write_text(json.dumps(document))
    return open_coco(root, [("train", images, root / "instances.json")])


def _synthetic(root: Path, other: bool) -> AnySource:
    return SyntheticSource(num_train=6, num_val=0, height=32, width=32, seed=int(other))


@pytest.mark.parametrize(
    "opened",
    [_folder, _folder_of_colors, _voc, _coco_stuff, _label_folders, _instances, _labelme, _coco, _synthetic],
)
def test_parts_with_other_meanings_of_the_masks_are_refused(
    tmp_path: Path, opened: Callable[[Path, bool], AnySource]
) -> None:
    for number in (1, 2):
        (tmp_path / f"copy{number}").mkdir()
        source = opened(tmp_path / f"copy{number}", False)
        pack(source, tmp_path / f"{number}", part=Part(number=number, count=2))
    merge(tmp_path / "merged", [tmp_path / "1", tmp_path / "2"])
    (tmp_path / "other").mkdir()
    source = opened(tmp_path / "other", True)
    pack(source, tmp_path / "3", part=Part(number=2, count=2))
    # What a number or colour has become is named where the reader records it.
    named, only_told = r"/1 was packed with .*/3 has it", r"/1 and .*/3 were packed .* different meanings of the masks"
    with pytest.raises(DataError, match=f"{named}|{only_told}"):
        merge(tmp_path / "wrong", [tmp_path / "1", tmp_path / "3"])
