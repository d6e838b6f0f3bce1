"""Objects that are derived from layers of ids after geometry."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

from dist_seg.data.codecs.annotations import ImageAnnotations, ObjectAnnotation
from dist_seg.data.loading.augment import SampleTransform
from dist_seg.data.loading.objects import derive_objects


def still(height: int, width: int) -> SampleTransform:
    return SampleTransform(roi=(0, 0, height, width), resized=(height, width), canvas=(height, width))


def annotated(*pixels: int, crowds: tuple[int, ...] = (), layers: dict[int, int] | None = None) -> ImageAnnotations:
    """Objects of classes 0, 1, 2 in turn; `crowds` and `layers` by index."""
    return ImageAnnotations(
        image_id=1,
        file_name="a.png",
        height=8,
        width=8,
        objects=tuple(
            ObjectAnnotation(
                id=i,
                class_id=i % 3,
                crowd=i in crowds,
                area=0.0,
                bbox=(0, 0, 1, 1),
                rle="",
                pixels=count,
                layer=(layers or {}).get(i, 0),
            )
            for i, count in enumerate(pixels)
        ),
    )


def test_boxes_are_the_outermost_pixels_with_the_far_edge_behind_the_last() -> None:
    ids = torch.zeros(1, 8, 10, dtype=torch.int32)
    ids[0, 2:5, 3:9] = 1
    ids[0, 7, 0] = 2
    objects = derive_objects(ids, annotated(18, 1), still(8, 10), min_visible=0.2)
    assert objects.boxes.tolist() == [[3, 2, 9, 5], [0, 7, 1, 8]]
    assert objects.labels.tolist() == [0, 1]
    assert objects.ids.tolist() == [1, 2]
    assert not objects.ignored.any()


def test_objects_without_a_pixel_are_left_out_and_the_rest_keep_their_ids() -> None:
    ids = torch.zeros(2, 8, 8, dtype=torch.int32)
    ids[1, :2, :2] = 3
    objects = derive_objects(ids, annotated(4, 4, 4, layers={2: 1}), still(8, 8), min_visible=0.2)
    assert (objects.ids.tolist(), objects.layers.tolist(), objects.labels.tolist()) == ([3], [1], [2])


def test_crowds_and_objects_of_which_too_little_is_left_are_ignored() -> None:
    ids = torch.zeros(1, 8, 8, dtype=torch.int32)
    ids[0, 0, :4], ids[0, 1, :4], ids[0, 2, :4] = 1, 2, 3
    objects = derive_objects(ids, annotated(4, 16, 17, crowds=(0,)), still(8, 8), min_visible=0.25)
    assert objects.ignored.tolist() == [True, False, True]


def test_what_is_left_is_measured_at_the_scale_of_the_canvas() -> None:
    ids = torch.ones(1, 8, 8, dtype=torch.int32)  # 64 pixels, from 16 of the source enlarged by two
    enlarged = SampleTransform(roi=(0, 0, 4, 4), resized=(8, 8), canvas=(8, 8))
    assert not derive_objects(ids, annotated(30), enlarged, min_visible=0.5).ignored.any()
    assert derive_objects(ids, annotated(34), enlarged, min_visible=0.5).ignored.all()


_SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))


@given(ids=arrays(np.int32, _SHAPES, elements=st.integers(0, 4)))
def test_boxes_and_areas_are_those_of_each_objects_pixels_looked_at_alone(ids: NDArray[np.int32]) -> None:
    """Few ids in few columns: the same id often ends a row and begins the next row or layer."""
    layers = {i: len(ids) - 1 for i in range(4)}
    areas = [int((ids == number).sum()) for number in range(1, 5)]
    objects = derive_objects(
        torch.from_numpy(ids), annotated(*areas, layers=layers), still(*ids.shape[1:]), min_visible=1.0
    )
    expected = {}
    for number in range(1, 5):
        _, y, x = (ids == number).nonzero()
        if len(x):
            expected[number] = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert dict(zip(objects.ids.tolist(), objects.boxes.tolist(), strict=True)) == expected
    assert not objects.ignored.any()  # nothing is missing


def test_no_objects_are_no_error() -> None:
    objects = derive_objects(torch.zeros(1, 8, 8, dtype=torch.int32), annotated(), still(8, 8), min_visible=0.2)
    assert objects.boxes.shape == (0, 4)
    assert objects.labels.shape == (0,)


@pytest.mark.parametrize("count", [100, 400])
def test_as_many_operators_are_called_for_any_number_of_objects(count: int) -> None:
    assert operators_called(count) == operators_called(10)


def operators_called(count: int) -> int:
    ids = (torch.arange(64 * 64, dtype=torch.int32) % count + 1).reshape(1, 64, 64)
    annotations = annotated(*[5] * count)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        derive_objects(ids, annotations, still(64, 64), min_visible=0.2)
    return sum(event.count for event in profiled.key_averages() if event.key.startswith("aten::"))
