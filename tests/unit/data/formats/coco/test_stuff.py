"""COCO-Stuff's two numberings become exact class ids, and neither is guessed."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.formats.coco.stuff import COCO_STUFF_LABELS, Numbering, open_coco_stuff
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.mask_source import MaskSource
from dist_seg.data.raw.source import RawReading
from dist_seg.errors import DataError

from ...raw_data import picture, write_image


def _write(root: Path, mask: NDArray[np.generic], *, masks: str = "annotations", stem: str = "train2017/1") -> None:
    write_image(root / "images" / f"{stem}.jpg", picture(*mask.shape[:2]))
    write_image(root / masks / f"{stem}.png", mask)


def _mask(source: MaskSource) -> list[list[int]]:
    (sample,) = source.samples()
    return source.load(sample).mask.tolist()


class TestNumbering:
    def test_stuffthingmaps_hold_the_label_less_one(self, tmp_path: Path) -> None:
        _write(tmp_path, np.array([[0, 12, 91, 181, 255]], np.uint8))
        source = open_coco_stuff(tmp_path, numbering="stuffthingmaps")
        assert _mask(source) == [[0, 11, 80, 170, 255]]
        assert [source.class_names[i] for i in (0, 11, 80, 170)] == ["person", "stop sign", "banner", "wood"]

    def test_category_ids_begin_at_one_and_zero_is_nobodys(self, tmp_path: Path) -> None:
        _write(tmp_path, np.array([[0, 1, 13, 92, 182]], np.uint8))
        assert _mask(open_coco_stuff(tmp_path, numbering="category-ids")) == [[255, 0, 11, 80, 170]]

    @pytest.mark.parametrize(
        ("numbering", "value"),
        [("stuffthingmaps", 11), ("stuffthingmaps", 182), ("category-ids", 12), ("category-ids", 255)],
    )
    def test_a_number_that_is_no_class_is_refused_by_file_and_position(
        self, tmp_path: Path, numbering: Numbering, value: int
    ) -> None:
        mask = np.ones((2, 3), np.uint8)
        mask[1, 2] = value
        _write(tmp_path, mask)
        with pytest.raises(DataError, match=rf"annotations/train2017/1\.png: class id {value} at \(x=2, y=1\)"):
            pack(open_coco_stuff(tmp_path, numbering=numbering), tmp_path / "out")

    def test_the_labels_are_80_things_and_91_of_stuff(self) -> None:
        assert sum(label < 92 for label in COCO_STUFF_LABELS) == 80
        assert sum(label >= 92 for label in COCO_STUFF_LABELS) == 91
        assert [COCO_STUFF_LABELS[label] for label in (1, 44, 90, 92, 137, 182)] == [
            *("person", "bottle", "toothbrush", "banner", "napkin", "wood")
        ]
        assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91} & COCO_STUFF_LABELS.keys()


class TestCategories:
    def test_a_json_file_names_them_in_the_order_of_their_ids(self, tmp_path: Path) -> None:
        _write(tmp_path, np.array([[300, 0, 7]], np.uint16))
        file = tmp_path / "c.json"
        file.write_text(json.dumps({"categories": [{"id": 300, "name": "rug"}, {"id": 7, "name": "train"}]}))
        source = open_coco_stuff(tmp_path, numbering="category-ids", categories=file)
        assert source.class_names == ("train", "rug")
        assert _mask(source) == [[1, 255, 0]]
        assert source.notes == (f"classes from {file}",)

    def test_so_does_a_list_of_labels_whose_zero_is_none(self, tmp_path: Path) -> None:
        _write(tmp_path, np.array([[2, 0, 255]], np.uint8))
        (tmp_path / "labels.txt").write_text("0: unlabeled\n1: person\n3: car\n")
        source = open_coco_stuff(tmp_path, numbering="stuffthingmaps", categories=tmp_path / "labels.txt")
        assert source.class_names == ("person", "car")
        assert _mask(source) == [[1, 0, 255]]

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("c.json", "{", r"c\.json: not JSON"),
            ("c.json", "[]", r"c\.json: the document: expected object"),
            ("c.json", '{"categories": [{"id": 1}]}', r"c\.json: categories\[0\]\.name is missing"),
            (
                "c.json",
                '{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
                "two categories have the same id",
            ),
            ("c.json", '{"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}', "'a' is listed twice"),
            (
                "c.json",
                '{"categories": [{"id": 256, "name": "a"}]}',
                r"the id 256 is not from 1 to 65535, or means unlabelled pixels",
            ),
            ("c.json", '{"categories": [{"id": 65536, "name": "a"}]}', r"the id 65536 is not from 1 to 65535"),
            ("c.json", '{"categories": [{"id": -1, "name": "a"}]}', r"the id -1 is not from 1 to 65535"),
            ("c.json", '{"categories": []}', r"c\.json: 0 classes"),
            ("c.txt", "person\ncar\n", r"c\.txt: every line must be `number name`"),
        ],
    )
    def test_a_file_that_does_not_is_refused(self, tmp_path: Path, name: str, text: str, message: str) -> None:
        _write(tmp_path, np.ones((2, 3), np.uint8))
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            open_coco_stuff(tmp_path, numbering="stuffthingmaps", categories=tmp_path / name)


class TestDataSet:
    @pytest.mark.parametrize("masks", ["annotations", "stuffthingmaps", "semantic"])
    def test_the_parts_are_found(self, tmp_path: Path, masks: str) -> None:
        for part in ("train2017", "val2017"):
            _write(tmp_path, np.ones((2, 3), np.uint8), masks=masks, stem=f"{part}/1")
        (tmp_path / masks / "panoptic_train2017").mkdir()
        samples = open_coco_stuff(tmp_path, numbering="category-ids").samples()
        assert [(sample.split, sample.key) for sample in samples] == [("train", "1"), ("val", "1")]

    def test_masks_in_two_places_are_not_chosen_from(self, tmp_path: Path) -> None:
        for masks in ("annotations", "semantic"):
            _write(tmp_path, np.ones((2, 3), np.uint8), masks=masks)
        with pytest.raises(
            DataError, match=r"several files for one split \(train, train\); give each split with --split"
        ):
            open_coco_stuff(tmp_path, numbering="category-ids")

    def test_parts_may_be_given(self, tmp_path: Path) -> None:
        _write(tmp_path, np.full((2, 3), 5, np.uint8), masks="maps")
        with pytest.raises(DataError, match=r"no masks in annotations/NAME, .*; give each split with --split"):
            open_coco_stuff(tmp_path, numbering="category-ids")
        part = ("dev", tmp_path / "images/train2017", tmp_path / "maps/train2017")
        source = open_coco_stuff(tmp_path, [part], numbering="category-ids")
        assert [sample.split for sample in source.samples()] == ["dev"]
        assert _mask(source) == [[4] * 3] * 2

    def test_a_lone_image_is_named_or_left_out(self, tmp_path: Path) -> None:
        _write(tmp_path, np.ones((2, 3), np.uint8))
        write_image(tmp_path / "images/train2017/2.jpg", picture(2, 3))
        with pytest.raises(DataError, match=r"no mask in .*annotations/train2017 for .*2\.jpg"):
            open_coco_stuff(tmp_path, numbering="category-ids").samples()
        source = open_coco_stuff(tmp_path, numbering="category-ids", reading=RawReading(skip_bad=True))
        result = pack(source, tmp_path / "out", PackOptions(skip_bad=True))
        assert [str(refusal) for refusal in result.skipped] == [f"{tmp_path / 'images/train2017/2.jpg'}: has no mask"]

    def test_the_limit_of_pixels_holds_for_masks(self, tmp_path: Path) -> None:
        _write(tmp_path, np.ones((2, 3), np.uint8))
        with pytest.raises(DataError, match=r"1\.png: 3x2 pixels are more than the allowed 5"):
            _mask(open_coco_stuff(tmp_path, numbering="category-ids", reading=RawReading(max_pixels=5)))

    def test_the_other_numbering_is_another_version_of_the_samples(self, tmp_path: Path) -> None:
        _write(tmp_path, np.ones((2, 3), np.uint8))
        numberings: tuple[Numbering, ...] = ("stuffthingmaps", "category-ids")
        versions = [open_coco_stuff(tmp_path, numbering=numbering).samples()[0].version for numbering in numberings]
        assert versions[0] != versions[1]


def test_every_pixel_of_the_real_masks_is_counted_once(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "coco100"
    counts = np.zeros(256, np.int64)
    for file in (root / "semantic/train2017").glob("*.png"):
        counts += np.bincount(np.asarray(Image.open(file)).ravel(), minlength=256)
    categories = root / "annotations/panoptic_train2017.json"
    ids = sorted(category["id"] for category in json.loads(categories.read_text())["categories"])
    source = open_coco_stuff(root, numbering="category-ids", categories=categories)
    packed = pack(source, tmp_path / "out", PackOptions(workers=2)).manifest.splits["train"]
    assert (packed.num_samples, list(packed.class_pixels)) == (100, counts[ids].tolist())
    assert packed.ignored_pixels == counts[0] and counts.sum() == counts[ids].sum() + counts[0]
