"""COCO annotations: every mask equals that of pycocotools, and every fault is reported."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as pycocotools_masks
from pycocotools.coco import COCO

from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.formats.coco.instances import open_coco
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import PackResult, pack
from dist_seg.data.raw.source import RawInstances, RawReading
from dist_seg.errors import DataError, StorageError
from dist_seg.masks.rle import decode_mask

from ...coco_data import HEIGHT, WIDTH, Entry, annotation, image_entry, square, write_coco
from ...raw_data import encoded, picture


def _load(root: Path, *, skip_bad: bool = False) -> list[RawInstances]:
    source = open_coco(root, reading=RawReading(skip_bad=skip_bad))
    worker = pickle.loads(pickle.dumps(source))
    return [worker.load(sample) for sample in source.samples()]


def _masks(raw: RawInstances) -> dict[int, NDArray[np.bool_]]:
    return {o.id: decode_mask(o.rle, raw.height, raw.width) for o in raw.objects}


def _only(root: Path, entry: Entry) -> RawObject:
    write_coco(root, [entry])
    (raw,) = _load(root)
    assert raw.problems == ()
    return raw.objects[0]


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths: down the columns, background first."""
    flat = np.concatenate([[0], mask.T.ravel().astype(int), [2]])
    ends = np.flatnonzero(np.diff(flat[1:])) + 1
    runs = np.diff(np.concatenate([[0], ends])).tolist()
    return [0, *runs] if mask[0, 0] else runs


def _blob(seed: int = 0) -> NDArray[np.bool_]:
    """A scattered mask with pixels at both ends."""
    mask = np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.3
    mask[0, 0] = mask[-1, -1] = True
    return mask


def _areas(masks: Sequence[Mapping[str, object]]) -> list[int]:
    # One at a time, because pycocotools counts the masks of a call in 8 bits.
    return [int(pycocotools_masks.area(mask)) for mask in masks]


class TestMasks:
    def test_a_polygon_covers_its_pixels(self, tmp_path: Path) -> None:
        found = _only(tmp_path, annotation(1))
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[3:8, 2:7] = True
        assert np.array_equal(decode_mask(found.rle, HEIGHT, WIDTH), expected)

    def test_the_parts_of_an_object_are_one_mask(self, tmp_path: Path) -> None:
        found = _only(tmp_path, annotation(1, segmentation=[square(0, 0, 2), square(10, 10, 3), square(11, 11, 4)]))
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[0:2, 0:2] = expected[10:13, 10:13] = expected[11:15, 11:15] = True
        assert np.array_equal(decode_mask(found.rle, HEIGHT, WIDTH), expected)

    def test_uncompressed_runs_are_taken(self, tmp_path: Path) -> None:
        mask = _blob()
        found = _only(tmp_path, annotation(1, segmentation={"size": [HEIGHT, WIDTH], "counts": _runs(mask)}))
        assert np.array_equal(decode_mask(found.rle, HEIGHT, WIDTH), mask)

    def test_compressed_runs_keep_their_text(self, tmp_path: Path) -> None:
        counts = pycocotools_masks.encode(np.asfortranarray(_blob().astype(np.uint8)))["counts"].decode()
        found = _only(tmp_path, annotation(1, segmentation={"size": [HEIGHT, WIDTH], "counts": counts}))
        assert found.rle == counts

    def test_class_crowd_area_and_box_are_the_annotation_s(self, tmp_path: Path) -> None:
        found = _only(tmp_path, annotation(9, category_id=90, iscrowd=1, area=24.5, bbox=[2.5, 3, 4.5, 5]))
        assert (found.id, found.class_id, found.crowd, found.area) == (9, 1, True, 24.5)
        assert found.bbox == (2.5, 3.0, 4.5, 5.0)

    def test_area_and_box_may_be_missing(self, tmp_path: Path) -> None:
        entry = annotation(1)
        del entry["area"], entry["bbox"], entry["iscrowd"]
        found = _only(tmp_path, entry)
        assert (found.area, found.bbox, found.crowd) == (None, None, False)

    def test_corners_up_to_a_pixel_outside_are_brought_to_the_edge(self, tmp_path: Path) -> None:
        segmentation = [[-1, -1, WIDTH + 1, -1, WIDTH + 1, HEIGHT + 1, -1, HEIGHT + 1]]
        found = _only(tmp_path, annotation(1, segmentation=segmentation, bbox=[-1, -1, WIDTH + 2, HEIGHT + 2]))
        assert decode_mask(found.rle, HEIGHT, WIDTH).all()

    @pytest.mark.parametrize("folder", ["coco100", "nuclei"])
    def test_every_mask_of_a_real_data_set_is_that_of_pycocotools(
        self, shared_data: Path, folder: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = open_coco(shared_data / folder)
        oracles = {split.name: COCO(str(split.annotations)) for split in source.splits}
        compared = 0
        for sample in source.samples():
            raw, oracle = source.load(sample), oracles[sample.split]
            entries = oracle.imgToAnns[raw.image_id]
            assert [o.id for o in raw.objects] == [entry["id"] for entry in entries]
            expected = [oracle.annToRLE(entry) for entry in entries]
            found = [{"size": [raw.height, raw.width], "counts": o.rle.encode()} for o in raw.objects]
            if found:  # the intersection of two equal masks is the area of each
                same = [
                    pycocotools_masks.merge(list(pair), intersect=True) for pair in zip(found, expected, strict=True)
                ]
                assert _areas(same) == _areas(found) == _areas(expected)
            compared += len(entries)
        assert compared == {"coco100": 746, "nuclei": 25943}[folder]


class TestDataSet:
    def test_class_ids_follow_the_category_ids_which_are_kept(self, tmp_path: Path) -> None:
        categories = [{"id": 90, "name": "late"}, {"id": 7, "name": "early"}]
        write_coco(tmp_path, [annotation(1, category_id=90)], categories=categories)
        source = open_coco(tmp_path)
        assert (source.class_names, source.category_ids) == (("early", "late"), (7, 90))
        assert _load(tmp_path)[0].objects[0].class_id == 1

    def test_images_without_annotations_are_there(self, tmp_path: Path) -> None:
        write_coco(tmp_path, [annotation(1, 2)], images=[image_entry(1), image_entry(2)])
        assert [len(raw.objects) for raw in _load(tmp_path)] == [0, 1]

    def test_images_in_sub_folders_are_found(self, tmp_path: Path) -> None:
        names = ["a/1.jpg", "b/1.jpg"]
        write_coco(tmp_path, [annotation(1, 2)], images=[image_entry(i + 1, name) for i, name in enumerate(names)])
        assert [sample.key for sample in open_coco(tmp_path).samples()] == ["a/1", "b/1"]
        assert [raw.file_name for raw in _load(tmp_path)] == names

    @pytest.mark.parametrize("place", ["train2017", "images/train2017", "images"])
    def test_the_images_of_a_part_are_found(self, tmp_path: Path, place: str) -> None:
        write_coco(tmp_path, [annotation(1)])
        (tmp_path / "train2017").rename(tmp_path / "moved")
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "moved").rename(tmp_path / place)
        assert [(sample.split, sample.key) for sample in open_coco(tmp_path).samples()] == [("train", "1")]

    def test_parts_may_be_given(self, tmp_path: Path) -> None:
        file = write_coco(tmp_path, [annotation(1)])
        file.rename(tmp_path / "mine.json")
        source = open_coco(tmp_path, [("dev", tmp_path / "train2017", tmp_path / "mine.json")])
        assert [sample.split for sample in source.samples()] == ["dev"]

    def test_a_source_sent_to_a_worker_is_small(self, tmp_path: Path) -> None:
        many = [annotation(i) for i in range(2000)]
        write_coco(tmp_path, many)
        assert len(pickle.dumps(open_coco(tmp_path))) < 2000

    @pytest.mark.parametrize(
        ("prepare", "message"),
        [
            ("nothing", r"no annotations/instances_NAME\.json; give each split with --split"),
            ("no images", r"instances_train2017\.json: its images are neither in .*train2017 nor in .*images"),
            ("two of a name", r"several files for one split \(train, train\)"),
            ("other categories", r"instances_val2017\.json: has other categories than .*instances_train2017"),
        ],
    )
    def test_a_folder_that_does_not_fit_together_is_refused(self, tmp_path: Path, prepare: str, message: str) -> None:
        match prepare:
            case "no images":
                write_coco(tmp_path, [])
                (tmp_path / "train2017").rename(tmp_path / "elsewhere")
            case "two of a name":
                write_coco(tmp_path, [])
                write_coco(tmp_path, [], part="train2014")
            case "other categories":
                write_coco(tmp_path, [])
                write_coco(tmp_path, [], part="val2017", categories=[{"id": 1, "name": "x"}])
        with pytest.raises(DataError, match=message):
            open_coco(tmp_path)

    def test_a_given_folder_of_images_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        file = write_coco(tmp_path, [])
        with pytest.raises(DataError, match="nowhere: no such folder; the images of split train"):
            open_coco(tmp_path, [("train", tmp_path / "nowhere", file)])

    @pytest.mark.parametrize(
        ("categories", "message"),
        [
            ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], r"json: categories has the id 1 twice"),
            ([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], r"json: class 'a' is listed twice"),
            ([{"id": "x", "name": "a"}], r"json: entry 1 of categories: id is 'x': expected int"),
            ([], r"json: 0 classes"),
        ],
    )
    def test_wrong_categories_are_refused(self, tmp_path: Path, categories: list[object], message: str) -> None:
        write_coco(tmp_path, [], categories=categories)
        with pytest.raises(DataError, match=message):
            open_coco(tmp_path)

    def test_a_file_that_changes_while_it_is_packed_is_no_bad_sample(self, tmp_path: Path) -> None:
        file = write_coco(tmp_path, [annotation(1)])
        source = open_coco(tmp_path, reading=RawReading(skip_bad=True))
        (sample,) = source.samples()
        file.write_text(file.read_text().replace("25.0", "26.0"))
        with pytest.raises(StorageError, match=r"instances_train2017\.json: was changed while it was being packed"):
            source.load(sample)


_SIZE = [HEIGHT, WIDTH]
_BAD_ANNOTATIONS: dict[str, tuple[Entry, str]] = {
    "box without width": ({"bbox": [2, 3, 0, 5]}, r"its box \[2, 3, 0, 5\] has no area"),
    "box without height": ({"bbox": [2, 3, 5, -1]}, "has no area"),
    "box of not-a-number": ({"bbox": [float("nan"), 3, 5, 5]}, "lies outside the image of 30x20"),
    "box outside": ({"bbox": [27, 3, 5, 5]}, r"its box \[27, 3, 5, 5\] lies outside the image of 30x20"),
    "box of three": ({"bbox": [2, 3, 5]}, r"bbox is \[2, 3, 5\]: expected array of length 4"),
    "corner to the right": ({"segmentation": [square(26.5)]}, r"a corner at x=31\.5 lies outside the image of 30x20"),
    "corner above": ({"segmentation": [square(2, -1.5)]}, r"a corner at y=-1\.5 lies outside"),
    "corner of not-a-number": ({"segmentation": [[float("nan"), *square()[1:]]]}, "a corner at x=nan lies outside"),
    "two corners": ({"segmentation": [[1, 2, 3, 4]]}, "a polygon of 4 numbers"),
    "odd polygon": ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "a polygon of 7 numbers"),
    "polygon of text": ({"segmentation": ["abc"]}, r"segmentation\[0\] is 'abc': expected array"),
    "no polygon": ({"segmentation": []}, "its segmentation is empty"),
    "no segmentation": ({"segmentation": None}, r"segmentation is None: expected object \| array"),
    "polygon of no pixel": ({"segmentation": [[2, 3, 2.1, 3, 2.1, 3.1]]}, "its mask has no pixel"),
    "runs of no pixel": ({"segmentation": {"size": _SIZE, "counts": [600]}}, "its mask has no pixel"),
    "runs too short": ({"segmentation": {"size": _SIZE, "counts": [5, 5]}}, "do not add up to the 600 pixels"),
    "negative run": ({"segmentation": {"size": _SIZE, "counts": [605, -5]}}, "do not add up"),
    "text too short": ({"segmentation": {"size": _SIZE, "counts": "55"}}, "do not add up"),
    "text of no runs": ({"segmentation": {"size": _SIZE, "counts": "\x10é"}}, "do not add up"),
    "runs of no kind": (
        {"segmentation": {"size": _SIZE, "counts": 5}},
        r"segmentation\.counts is 5: expected str \| array",
    ),
    "runs of another size": ({"segmentation": {"size": [30, 20], "counts": [600]}}, "is for an image of 20x30"),
    "unknown category": ({"category_id": 8}, "category_id 8 is not among the categories"),
    "no category": ({"category_id": None}, "category_id is None: expected int"),
    "area below zero": ({"area": -1}, "its area is -1, must be a number"),
    "crowd of text": ({"iscrowd": "no"}, "iscrowd is 'no': expected bool"),
    "id of text": ({"id": "five"}, "id is 'five': expected int"),
    "the id of another": ({"id": 1}, "has the id 1 twice|the id occurs earlier"),
}


class TestBadAnnotations:
    @pytest.mark.parametrize("kind", _BAD_ANNOTATIONS)
    def test_is_refused_by_file_and_id(self, tmp_path: Path, kind: str) -> None:
        changes, message = _BAD_ANNOTATIONS[kind]
        write_coco(tmp_path, [annotation(1), annotation(5, **changes)])
        number = changes.get("id", 5)
        with pytest.raises(DataError, match=message) as caught:
            pack(open_coco(tmp_path), tmp_path / "out")
        assert "instances_train2017.json: " in str(caught.value)
        assert f"annotation {number} of 1.jpg" in str(caught.value) or f"the id {number} twice" in str(caught.value)

    @pytest.mark.parametrize("kind", _BAD_ANNOTATIONS)
    def test_is_left_out_and_counted_if_allowed(self, tmp_path: Path, kind: str) -> None:
        changes, _ = _BAD_ANNOTATIONS[kind]
        write_coco(tmp_path, [annotation(1), annotation(5, **changes)])
        result = pack(
            open_coco(tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "out", PackOptions(skip_bad=True)
        )
        (left_out,) = result.skipped_annotations
        assert f"instances_train2017.json: annotation {changes.get('id', 5)} of 1.jpg: " in left_out
        counts = result.manifest.splits["train"].objects
        assert counts is not None
        assert (counts.total, counts.skipped_annotations) == (1, 1)
        assert result.skipped == ()

    def test_the_same_id_in_two_images_is_found_too(self, tmp_path: Path) -> None:
        write_coco(tmp_path, [annotation(4, 1), annotation(4, 2)], images=[image_entry(1), image_entry(2)])
        assert [len(raw.objects) for raw in _load(tmp_path, skip_bad=True)] == [1, 0]

    def test_several_of_one_image_are_all_named(self, tmp_path: Path) -> None:
        write_coco(tmp_path, [annotation(1, bbox=[0, 0, 0, 0]), annotation(2, category_id=3)])
        with pytest.raises(DataError, match=r"(?s)annotation 1 of 1\.jpg.*annotation 2 of 1\.jpg"):
            pack(open_coco(tmp_path), tmp_path / "out")


def _packed_leaving_out(root: Path) -> PackResult:
    return pack(open_coco(root, reading=RawReading(skip_bad=True)), root / "out", PackOptions(skip_bad=True))


class TestBadImages:
    """Each is an error that names file and id, or a sample that is left out if that is allowed. One image is good."""

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            (image_entry(1, "2.jpg"), r"images has the id 1 twice, for 1\.jpg and 2\.jpg"),
            (image_entry(2, "1.jpg"), r"image 2 is 1\.jpg, and so is image 1"),
            (image_entry("x", "2.jpg"), r"entry 2 of images: id is 'x': expected int"),
            (image_entry(2, "2.jpg", height="20"), r"image 2 \(2\.jpg\): height is '20': expected int"),
            (image_entry(2, "2.jpg", width=0), r"image 2 \(2\.jpg\): width is 0: expected int >= 1"),
            (
                image_entry(2, "2.jpg", width=10**9),
                r"image 2 \(2\.jpg\): 1000000000x20 pixels are more than the allowed",
            ),
            (image_entry(2, "2.jpg", width=31), r"annotations for 31x20 pixels .*2\.jpg is 30x20"),
        ],
    )
    def test_a_wrong_entry(self, tmp_path: Path, entry: Entry, message: str) -> None:
        write_coco(tmp_path, [annotation(1)], images=[image_entry(1), entry])
        with pytest.raises(DataError, match=rf"instances_train2017\.json: {message}"):
            pack(open_coco(tmp_path), tmp_path / "out")
        result = _packed_leaving_out(tmp_path)
        assert result.manifest.splits["train"].num_samples == 1
        assert len(result.skipped) == result.manifest.splits["train"].skipped_samples == 1

    def test_a_missing_file(self, tmp_path: Path) -> None:
        write_coco(tmp_path, [annotation(1)], images=[image_entry(1), image_entry(2)])
        (tmp_path / "train2017" / "2.jpg").unlink()
        with pytest.raises(DataError, match=r"train2017\.json: image 2: there is no file .*2\.jpg"):
            pack(open_coco(tmp_path), tmp_path / "out")
        (left_out,) = _packed_leaving_out(tmp_path).skipped
        assert "image 2: there is no file" in str(left_out)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image_id": 33}, r"annotation 5 \(and 1 more\) is of image 33, which is not among the images"),
            ({"image_id": "33"}, r"annotation 5 has no integer image_id: {\"id\": 5"),
        ],
    )
    def test_annotations_of_no_image(self, tmp_path: Path, changes: Entry, message: str) -> None:
        write_coco(tmp_path, [annotation(1), annotation(5, **changes), annotation(6, **changes)])
        with pytest.raises(DataError, match=rf"instances_train2017\.json: {message}"):
            pack(open_coco(tmp_path), tmp_path / "out")
        result = _packed_leaving_out(tmp_path)
        assert len(result.skipped) == (1 if changes["image_id"] == 33 else 2)
        split = result.manifest.splits["train"]
        assert split.objects is not None
        assert (split.num_samples, split.skipped_samples, split.objects.skipped_annotations) == (1, 0, 2)

    def test_an_image_that_its_exif_turns_has_annotations_for_what_is_seen(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[274] = 6
        turned = encoded(Image.fromarray(picture(HEIGHT, WIDTH)), "JPEG", exif=exif)
        write_coco(tmp_path, [annotation(1)])
        (tmp_path / "train2017" / "1.jpg").write_bytes(turned)
        with pytest.raises(
            DataError, match=r"for 30x20 pixels \(width.*is 20x30 upright \(was the mask drawn on the stored picture"
        ):
            pack(open_coco(tmp_path), tmp_path / "out")
        write_coco(tmp_path / "b", [annotation(1)], images=[image_entry(1, height=WIDTH, width=HEIGHT)])
        (tmp_path / "b" / "train2017" / "1.jpg").write_bytes(turned)
        assert pack(open_coco(tmp_path / "b"), tmp_path / "b" / "out").manifest.splits["train"].num_samples == 1


def test_text_of_another_encoding_is_named(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [annotation(1, note="?")])
    file.write_bytes(file.read_bytes().replace(b'"?"', b'"\xe4"'))
    (sample,) = open_coco(tmp_path).samples()
    with pytest.raises(DataError, match=r"instances_train2017\.json: not UTF-8"):
        open_coco(tmp_path).load(sample)


def test_a_number_that_is_none_is_still_json(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [annotation(1, score=float("inf"))])
    assert "Infinity" in file.read_text() and json.loads(file.read_text())
    assert len(_load(tmp_path)[0].objects) == 1
