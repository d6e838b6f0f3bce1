from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from dist_seg.models.mask_rcnn import matching
from dist_seg.models.mask_rcnn.matching import BACKGROUND, NEITHER, match_objects
from tests.unit.models.mask_rcnn.detection import Objects, ignoring, objects_of, operators_of, scattered


def matched(boxes: Tensor, objects: Objects, best_of_each: bool = False, ignore_overlap: float = 0.5) -> list[int]:
    found = match_objects(
        boxes, objects, positive_iou=0.7, negative_iou=0.3, ignore_overlap=ignore_overlap, best_of_each=best_of_each
    )
    return found.tolist()


def test_box_belongs_to_the_object_it_overlaps_most() -> None:
    objects = objects_of([(0, 0, 10, 10), (0, 0, 10, 12)])
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 5], [20, 20, 30, 30]], dtype=torch.float32)
    assert matched(boxes, objects) == [0, 1, NEITHER, BACKGROUND]


@pytest.mark.parametrize("piece", [16, 10_000])
@pytest.mark.parametrize("best_of_each", [False, True])
def test_agrees_with_torchvision(best_of_each: bool, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_PIECE", piece)
    objects = scattered(30, 100)
    boxes = scattered(500, 100, seed=1).boxes
    expected = Matcher(0.7, 0.3, allow_low_quality_matches=best_of_each)(box_iou(objects.boxes, boxes))
    assert matched(boxes, objects, best_of_each) == expected.tolist()


def test_an_object_that_no_box_touches_takes_none() -> None:
    boxes = torch.tensor([[50.0, 50, 60, 60]])
    assert matched(boxes, objects_of([(0, 0, 10, 10)]), best_of_each=True) == [BACKGROUND]


def test_what_lies_mostly_in_an_ignored_object_is_no_background() -> None:
    objects = ignoring(objects_of([(0, 0, 40, 40), (10, 10, 20, 20)]), 0)
    inside, half_out, mostly_out = [0.0, 20, 10, 30], [30.0, 0, 49, 10], [35.0, 0, 50, 10]
    on_object = [10.0, 10, 20, 20]
    boxes = torch.tensor([inside, half_out, mostly_out, on_object])
    assert matched(boxes, objects) == [NEITHER, NEITHER, BACKGROUND, 1]
    assert matched(boxes, objects, ignore_overlap=0.9)[1] == BACKGROUND


def test_ignored_objects_are_matched_with_nothing() -> None:
    objects = ignoring(objects_of([(0, 0, 10, 10)]), 0)
    assert matched(objects.boxes, objects, best_of_each=True) == [NEITHER]


def test_index_counts_ignored_objects_too() -> None:
    objects = ignoring(objects_of([(30, 30, 40, 40), (0, 0, 10, 10)]), 0)
    assert matched(objects.boxes[1:], objects) == [1]


def test_nothing_to_match() -> None:
    none = objects_of([])
    assert matched(torch.tensor([[0.0, 0, 1, 1]]), none) == [BACKGROUND]
    assert matched(torch.zeros(0, 4), objects_of([(0, 0, 10, 10)])) == []
    assert matched(torch.zeros(0, 4), replace(none)) == []


def test_the_number_of_operators_does_not_depend_on_that_of_objects() -> None:
    boxes = scattered(20_000, 200, seed=1).boxes

    def num_operators(count: int) -> int:
        objects = ignoring(scattered(count, 200), 0, 1)
        return operators_of(lambda: matched(boxes, objects, best_of_each=True))

    assert num_operators(10) == num_operators(100) == num_operators(400) > 0
