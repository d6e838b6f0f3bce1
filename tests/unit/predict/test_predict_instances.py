"""Instances of pictures, whole and in windows, from a detector that sees connected bright regions."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from dist_seg.config.schema import DataConfig
from dist_seg.errors import DataError, UserError
from dist_seg.masks.rle import decode_mask, encode_masks
from dist_seg.metrics.instances import ImageInstances, ScoredInstance
from dist_seg.models.mask_rcnn.detections import Detections
from dist_seg.models.mask_rcnn.targets import MASK_SIZE
from dist_seg.predict.coco_results import annotated_ids, coco_results, running_ids
from dist_seg.predict.instances import id_map, predict_instances
from dist_seg.predict.windows import windows_of

CPU = torch.device("cpu")


def unit(scale: float = 1.0) -> DataConfig:
    return DataConfig(normalize="unit", input_scale=scale)


def connected(bright: np.ndarray) -> np.ndarray:
    """(H, W): 0 where dark, else the largest number of a pixel that it is connected with."""
    ids = np.where(bright, np.arange(1, bright.size + 1).reshape(bright.shape), 0)
    while True:
        around = np.pad(ids, 1)
        neighbours = [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:], ids]
        spread = np.where(bright, np.maximum.reduce(neighbours), 0)
        if np.array_equal(spread, ids):
            return ids
        ids = spread


def bright_regions(images: torch.Tensor) -> Detections:
    """Every connected region of bright pixels; larger ones are surer. Masks fill their boxes."""
    ids = connected(images[0, 0].numpy() > 0.5)
    extents = []
    for number in np.unique(ids[ids > 0]):
        rows, columns = (ids == number).nonzero()
        extents.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    boxes, count = torch.tensor(np.array(extents), dtype=torch.float32).reshape(-1, 4), len(extents)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = areas.argsort(descending=True)
    return Detections(
        boxes=boxes[order],
        scores=1 - 1 / (1 + areas[order]),
        labels=torch.zeros(count, dtype=torch.int64),
        masks=torch.ones(count, MASK_SIZE, MASK_SIZE),
    )


def scene(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """White rectangles (x1, y1, x2, y2) on black."""
    image = np.zeros((height, width, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return image


def found_boxes(image: np.ndarray, window: int | None, scale: float = 1.0) -> set[tuple[int, ...]]:
    instances = predict_instances(
        image, bright_regions, data=unit(scale), device=CPU, mask_threshold=0.5, window=window
    )
    for instance in instances:
        mask = decode_mask(instance.rle, *image.shape[:2])
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x, y, w, h = instance.bbox
        assert np.allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], [x, y, x + w, y + h], atol=1)
    return {tuple(round(v) for v in instance.bbox) for instance in instances}


SCENE = scene(
    200,
    300,
    (10, 10, 30, 25),  # in a corner
    (90, 40, 112, 60),  # in an overlap
    (60, 80, 260, 100),  # over several windows
    (270, 180, 300, 200),  # at the picture's own border
    (120, 110, 140, 190),  # down the rows
)
BOXES = {(10, 10, 20, 15), (90, 40, 22, 20), (60, 80, 200, 20), (270, 180, 30, 20), (120, 110, 20, 80)}


def test_the_scene_is_found_whole() -> None:
    assert found_boxes(SCENE, None) == BOXES


@pytest.mark.parametrize("window", [64, 96, 128, 199])
def test_windows_give_the_objects_of_the_whole_picture_each_once_and_whole(window: int) -> None:
    assert found_boxes(SCENE, window) == BOXES


def test_what_ends_just_before_a_border_that_cuts_it_is_no_object_of_its_own() -> None:
    def cautious(images: torch.Tensor) -> Detections:
        """As a network's boxes are: where a border cuts an object, they end some pixels before it."""
        found, (height, width) = bright_regions(images), images.shape[-2:]
        low, high = torch.tensor([5.0, 5.0]), torch.tensor([width - 5.0, height - 5.0])
        boxes = torch.cat([found.boxes[:, :2].maximum(low), found.boxes[:, 2:].minimum(high)], dim=1)
        return dataclasses.replace(found, boxes=boxes)

    assert [window.left for window in windows_of(64, 200, 64)] == [0, 45, 91, 136]
    image = scene(64, 200, (85, 20, 105, 40))  # in the window from 45 to 109, and cut by that from 91
    found = predict_instances(image, cautious, data=unit(), device=CPU, mask_threshold=0.5, window=64)
    assert [instance.bbox for instance in found] == [(85.0, 20.0, 20.0, 20.0)]


def test_windows_are_of_the_scaled_input_and_objects_of_the_picture() -> None:
    assert found_boxes(SCENE, 160, scale=2.0) == BOXES


@pytest.mark.parametrize(("height", "width", "side"), [(100, 100, 64), (257, 70, 64), (64, 65, 64)])
def test_windows_cover_the_input_and_overlap_by_a_quarter(height: int, width: int, side: int) -> None:
    covered = np.zeros((height, width), int)
    windows = windows_of(height, width, side)
    for w in windows:
        covered[w.top : w.top + w.height, w.left : w.left + w.width] += 1
    assert covered.min() == 1
    tops, lefts = sorted({w.top for w in windows}), sorted({w.left for w in windows})
    assert all(np.diff(starts).max(initial=0) <= 0.75 * side for starts in (tops, lefts))


def test_without_a_window_only_large_inputs_are_cut() -> None:
    assert len(windows_of(2048, 2048, None)) == 1
    assert len(windows_of(2048, 2049, None)) > 1


def instance(mask: np.ndarray, score: float, class_id: int = 0) -> ScoredInstance:
    [(rle, _)] = encode_masks(mask[None])
    return ScoredInstance(class_id=class_id, score=score, bbox=(1.0, 2.0, 3.0, 4.0), rle=rle)


def test_ids_follow_the_order_of_the_instances_and_the_first_is_on_top() -> None:
    first, second = np.zeros((4, 6), np.bool_), np.zeros((4, 6), np.bool_)
    first[:2], second[1:3] = True, True
    ids = id_map([instance(first, 0.9), instance(second, 0.8)], 4, 6)
    assert ids.dtype == np.uint16
    assert ids[:, 0].tolist() == [1, 1, 2, 0]


def test_results_are_loaded_by_pycocotools_with_their_masks(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[3:9, 4:20] = True
    files = [tmp_path / "a.png", tmp_path / "sub" / "b.png"]
    found = [
        ImageInstances(
            key=str(files[1]), height=20, width=30, truth=(), predictions=(instance(mask, 0.7, class_id=1),)
        ),
        ImageInstances(key=str(files[0]), height=20, width=30, truth=(), predictions=()),
    ]
    results = json.loads(json.dumps(coco_results(found, running_ids(files), tmp_path, (5, 18))))
    assert [(r["image_id"], r["file_name"], r["category_id"]) for r in results] == [(2, "sub/b.png", 18)]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": 20, "width": 30} for i in (1, 2)],
        "categories": [{"id": 5, "name": "a"}, {"id": 18, "name": "b"}],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(results)
    [annotation] = loaded.anns.values()
    assert np.array_equal(loaded.annToMask(annotation).astype(bool), mask)


def annotations_of(folder: Path, *names: str) -> Path:
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": [{"id": 10 + i, "file_name": name} for i, name in enumerate(names)]}))
    return file


def test_pictures_have_the_ids_of_the_annotations_by_path_or_by_name(tmp_path: Path) -> None:
    files = [tmp_path / "sub" / "a.jpg", tmp_path / "b.jpg"]
    file = annotations_of(tmp_path, "c.jpg", "sub/a.jpg", "train/b.jpg")
    assert annotated_ids(files, tmp_path, file) == {files[0]: 11, files[1]: 12}


def test_a_picture_that_the_annotations_do_not_tell_apart_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no image with the file name b\.jpg"):
        annotated_ids([tmp_path / "b.jpg"], tmp_path, annotations_of(tmp_path, "a.jpg"))
    with pytest.raises(UserError, match=r"several images with the file name b\.jpg"):
        annotated_ids([tmp_path / "b.jpg"], tmp_path, annotations_of(tmp_path, "x/b.jpg", "y/b.jpg"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "expected object, got array"),
        ('{"images": [{"id": 1}]}', r"images\[0\]\.file_name is missing"),
        ('{"images": [{"id": "x", "file_name": "a"}]}', "the id of an image is not a whole number"),
    ],
)
def test_a_file_that_is_no_annotations_is_named(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(DataError, match=rf"broken\.json: .*{problem}"):
        annotated_ids([tmp_path / "b.jpg"], tmp_path, file)
