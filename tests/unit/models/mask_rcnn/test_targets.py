from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dist_seg.models.mask_rcnn.targets import mask_targets
from tests.unit.models.mask_rcnn.detection import Objects, objects_of, operators_of, rectangles, scattered


def own_boxes(layers_LHW: Tensor, objects: Objects, boxes: Tensor | None = None) -> Tensor:
    images = torch.zeros(len(objects.boxes), dtype=torch.int64)
    regions = objects.boxes if boxes is None else boxes
    return mask_targets(layers_LHW[None], images, objects.layers, objects.ids, regions)


@pytest.mark.parametrize("box", [(3, 5, 17, 30), (0, 0, 40, 40), (39, 39, 40, 40), (7, 0, 8, 40)])
def test_a_rectangle_fills_its_box(box: tuple[int, int, int, int]) -> None:
    objects = objects_of([box])
    assert own_boxes(rectangles(objects, 40, 40), objects).eq(1).all()


def test_a_region_that_sticks_out_sees_the_object_where_it_is() -> None:
    objects = objects_of([(14, 0, 28, 28)])
    target = own_boxes(rectangles(objects, 40, 40), objects, torch.tensor([[0.0, 0.0, 28.0, 28.0]]))
    assert target.shape == (1, 28, 28)
    assert target[0, :, 14:].eq(1).all() and target[0, :, :14].eq(0).all()


def test_a_bin_that_an_edge_cuts_in_half_is_a_half() -> None:
    objects = objects_of([(0, 0, 3, 56)])
    target = own_boxes(rectangles(objects, 56, 56), objects, torch.tensor([[0.0, 0.0, 56.0, 56.0]]))
    assert target[0, 0, :3].tolist() == [1.0, 0.5, 0.0]


def test_overlapping_objects_are_found_in_their_layers() -> None:
    objects = replace(objects_of([(0, 0, 20, 20), (0, 0, 20, 20)]), layers=torch.tensor([0, 1]))
    assert own_boxes(rectangles(objects, 30, 30, num_layers=2), objects).eq(1).all()


def test_every_region_looks_at_its_own_image() -> None:
    objects = objects_of([(0, 0, 20, 20)])
    layers = torch.stack([torch.zeros(1, 30, 30, dtype=torch.int32), rectangles(objects, 30, 30)])
    twice = objects.boxes.repeat(2, 1)
    target = mask_targets(layers, torch.tensor([0, 1]), objects.layers.repeat(2), objects.ids.repeat(2), twice)
    assert target[0].eq(0).all() and target[1].eq(1).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_ids_come_in_any_integer(dtype: torch.dtype) -> None:
    objects = objects_of([(3, 5, 17, 30), (20, 5, 30, 30)])
    assert own_boxes(rectangles(objects, 40, 40).to(dtype), objects).eq(1).all()


def test_no_region_gives_no_target() -> None:
    assert own_boxes(torch.zeros(1, 8, 8, dtype=torch.int32), objects_of([])).shape == (0, 28, 28)


def test_the_number_of_operators_does_not_depend_on_that_of_objects() -> None:
    def num_operators(count: int) -> int:
        objects = scattered(count, 200)
        layers = rectangles(objects, 200, 200)
        return operators_of(lambda: own_boxes(layers, objects))

    assert num_operators(10) == num_operators(100) == num_operators(400) > 0
