"""COCO's panoptic annotations as class masks: each pixel has its segment's category, on toys and on real images."""

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.formats.coco.panoptic import PanopticSource, open_coco_panoptic
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawReading
from dist_seg.errors import DataError, UserError

from ...raw_data import picture, write_image

Entry = dict[str, object]

_CATEGORIES: tuple[Entry, ...] = (
    {"id": 200, "name": "rug", "isthing": 0},
    {"id": 7, "name": "train", "isthing": 1},
    {"id": 92, "name": "banner", "isthing": 0},
    {"id": 3, "name": "car", "isthing": 1},
)
_BIG = 65536 * 250 + 256 * 3 + 9  # an id of three bytes
_IDS = np.array([[0, 5, _BIG], [256, 5, _BIG]])
_SEGMENTS = ((5, 92), (_BIG, 3), (256, 200))


def _annotation(image: object = 1, segments: Sequence[tuple[int, int]] = _SEGMENTS, **changes: object) -> Entry:
    listed = [{"id": number, "category_id": category, "iscrowd": 0} for number, category in segments]
    return {"image_id": image, "file_name": "1.png", "segments_info": listed, **changes}


def _colors(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def _write(
    root: Path,
    annotations: Sequence[Mapping[str, object]] | None = None,
    *,
    images: Sequence[Entry] = ({"id": 1, "file_name": "1.jpg", "height": 2, "width": 3},),
    ids: NDArray[np.integer] = _IDS,
    part: str = "train2017",
    categories: Sequence[Entry] = _CATEGORIES,
) -> Path:
    for entry in images:
        write_image(root / part / str(entry["file_name"]), picture(2, 3))
    write_image(root / "annotations" / f"panoptic_{part}" / "1.png", _colors(ids))
    file = root / "annotations" / f"panoptic_{part}.json"
    annotations = [_annotation()] if annotations is None else annotations
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def _mask(source: PanopticSource) -> list[list[int]]:
    (sample,) = source.samples()
    return pickle.loads(pickle.dumps(source)).load(sample).mask.tolist()


class TestMasks:
    def test_pixels_have_their_segments_category_in_the_order_of_the_ids(self, tmp_path: Path) -> None:
        _write(tmp_path)
        source = open_coco_panoptic(tmp_path)
        assert source.class_names == ("car", "train", "banner", "rug")
        assert _mask(source) == [[255, 2, 0], [3, 2, 0]]
        assert [(sample.split, sample.key) for sample in source.samples()] == [("train", "1")]

    def test_things_may_be_one_class(self, tmp_path: Path) -> None:
        _write(tmp_path)
        source = open_coco_panoptic(tmp_path, merge_things=True)
        assert source.class_names == ("things", "banner", "rug")
        assert _mask(source) == [[255, 1, 0], [2, 1, 0]]

    def test_without_things_there_is_nothing_to_merge(self, tmp_path: Path) -> None:
        _write(tmp_path, categories=[{**entry, "isthing": 0} for entry in _CATEGORIES])
        with pytest.raises(UserError, match=r"panoptic_train2017\.json: marks no category as a thing \(isthing\)"):
            open_coco_panoptic(tmp_path, merge_things=True)

    def test_a_segment_without_pixels_is_no_fault(self, tmp_path: Path) -> None:
        _write(tmp_path, [_annotation(segments=[*_SEGMENTS, (77, 7)])])
        assert _mask(open_coco_panoptic(tmp_path)) == [[255, 2, 0], [3, 2, 0]]

    def test_a_segment_that_is_not_listed_is_refused_by_id_and_position(self, tmp_path: Path) -> None:
        _write(tmp_path, [_annotation(segments=[(5, 92), (256, 200)])])
        message = rf"panoptic_train2017/1\.png: segment {_BIG} at \(x=2, y=0\) \(2 such pixels\) is not in"
        with pytest.raises(DataError, match=message):
            pack(open_coco_panoptic(tmp_path), tmp_path / "out")

    def test_a_grey_png_is_refused(self, tmp_path: Path) -> None:
        _write(tmp_path)
        write_image(tmp_path / "annotations/panoptic_train2017/1.png", np.zeros((2, 3), np.uint8))
        with pytest.raises(DataError, match=r"1\.png: not in colours; a panoptic PNG is RGB"):
            pack(open_coco_panoptic(tmp_path), tmp_path / "out")

    def test_a_png_of_another_size_is_refused(self, tmp_path: Path) -> None:
        _write(tmp_path, ids=_IDS.T)
        with pytest.raises(DataError, match=r"panoptic_train2017/1\.png: the mask is 2x3 .*, its image .* 3x2"):
            pack(open_coco_panoptic(tmp_path), tmp_path / "out")

    def test_the_limit_of_pixels_holds_for_masks(self, tmp_path: Path) -> None:
        _write(tmp_path)
        with pytest.raises(DataError, match=r"1\.png: 3x2 pixels are more than the allowed 5"):
            _mask(open_coco_panoptic(tmp_path, reading=RawReading(max_pixels=5)))


class TestDataSet:
    @pytest.mark.parametrize(
        ("annotations", "message"),
        [
            ([], r"image 1 \(1\.jpg\): has no annotation; it must have one"),
            ([_annotation(), _annotation()], r"image 1 \(1\.jpg\): has 2 annotations; it must have one"),
            ([_annotation(), _annotation(9)], r"annotation 0 is of image 9, which is not among the images"),
            ([_annotation(segments=[(5, 8)])], r"segment 5 is of category 8, which is not among the categories"),
            ([_annotation(segments=[(5, 7), (5, 3)])], r"image 1 .*: segment 5 is listed twice"),
            (
                [_annotation(segments=[(0, 7)])],
                r"a segment has the id 0; it must be from 1 to 16777215",
            ),
            ([_annotation(segments_info="x")], r"segments_info is 'x': expected array"),
            ([_annotation(file_name="2.png")], r"there is no file .*panoptic_train2017/2\.png"),
            ([_annotation(file_name="../1.png")], r"its PNG lies outside the folder of PNGs: '\.\./1\.png'"),
        ],
    )
    def test_what_cannot_be_used_is_named_with_its_image_or_left_out(
        self, tmp_path: Path, annotations: list[Entry], message: str
    ) -> None:
        images = [{"id": i, "file_name": f"{i}.jpg", "height": 2, "width": 3} for i in (1, 2)]
        _write(tmp_path, [*annotations, _annotation(2)], images=images)
        with pytest.raises(DataError, match=r"panoptic_train2017\.json: .*" + message + r"(?s:.*)\(--skip-bad\)"):
            open_coco_panoptic(tmp_path).samples()
        result = pack(
            open_coco_panoptic(tmp_path, reading=RawReading(skip_bad=True)),
            tmp_path / "out",
            PackOptions(skip_bad=True),
        )
        (refusal,) = result.skipped
        assert re.search(message, refusal.reason) and "has no mask" not in refusal.reason

    def test_an_annotation_that_is_not_utf_8_is_named(self, tmp_path: Path) -> None:
        file = _write(tmp_path, [_annotation(file_name="1x.png")])
        file.write_bytes(file.read_bytes().replace(b"1x.png", b"\xff.png"))
        with pytest.raises(DataError, match=r"image 1 \(1\.jpg\): its annotation is not UTF-8"):
            open_coco_panoptic(tmp_path).samples()

    def test_a_missing_image_is_named(self, tmp_path: Path) -> None:
        _write(tmp_path)
        (tmp_path / "train2017/1.jpg").unlink()
        with pytest.raises(DataError, match=r"image 1 \(1\.jpg\): there is no file .*train2017/1\.jpg"):
            open_coco_panoptic(tmp_path).samples()

    def test_parts_may_be_given(self, tmp_path: Path) -> None:
        file = _write(tmp_path)
        pngs = file.with_suffix("").rename(tmp_path / "pngs")
        with pytest.raises(DataError, match=r"panoptic_train2017: no such folder; the PNGs of segments"):
            open_coco_panoptic(tmp_path)
        source = open_coco_panoptic(tmp_path, [("dev", tmp_path / "train2017", file, pngs)])
        assert [sample.split for sample in source.samples()] == ["dev"]

    def test_all_parts_must_have_the_same_categories(self, tmp_path: Path) -> None:
        _write(tmp_path)
        _write(tmp_path, part="val2017", categories=_CATEGORIES[1:])
        with pytest.raises(DataError, match=r"panoptic_val2017\.json: has other categories than"):
            open_coco_panoptic(tmp_path)

    def test_another_category_of_a_segment_is_another_version_of_the_sample(self, tmp_path: Path) -> None:
        _write(tmp_path)
        (before,) = open_coco_panoptic(tmp_path).samples()
        _write(tmp_path, [_annotation(segments=[(5, 7), *_SEGMENTS[1:]])])
        (after,) = open_coco_panoptic(tmp_path).samples()
        assert before.version.split()[-1] != after.version.split()[-1]

    def test_without_annotations_it_says_what_it_looks_for(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no annotations/panoptic_NAME\.json; give each split with --split"):
            open_coco_panoptic(tmp_path)
        with pytest.raises(DataError, match="no such folder"):
            open_coco_panoptic(tmp_path / "x")


@pytest.mark.parametrize("merge_things", [False, True])
def test_every_pixel_of_the_real_images_is_counted_once(shared_data: Path, tmp_path: Path, merge_things: bool) -> None:
    root = shared_data / "coco100"
    document = json.loads((root / "annotations/panoptic_train2017.json").read_text())
    pixels: dict[int, int] = {}
    for annotation in document["annotations"]:
        png = np.asarray(Image.open(root / "annotations/panoptic_train2017" / annotation["file_name"]), np.int64)
        ids, counts = np.unique(png @ [1, 256, 65536], return_counts=True)
        category_of = {0: 0} | {segment["id"]: segment["category_id"] for segment in annotation["segments_info"]}
        for number, count in zip(ids.tolist(), counts.tolist(), strict=True):
            pixels[category_of[number]] = pixels.get(category_of[number], 0) + count
    by_id = sorted(document["categories"], key=lambda category: category["id"])
    expected = [pixels.get(category["id"], 0) for category in by_id]
    if merge_things:
        things = sum(count for count, category in zip(expected, by_id, strict=True) if category["isthing"])
        stuff = [count for count, category in zip(expected, by_id, strict=True) if not category["isthing"]]
        expected = [things, *stuff]
    source = open_coco_panoptic(root, merge_things=merge_things)
    packed = pack(source, tmp_path / "out", PackOptions(workers=2)).manifest.splits["train"]
    assert (packed.num_samples, list(packed.class_pixels), packed.ignored_pixels) == (100, expected, pixels[0])
