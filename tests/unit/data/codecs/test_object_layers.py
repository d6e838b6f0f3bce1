"""Objects on their way into a shard: the layers and the annotations give back the original masks."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.codecs.annotations import MAX_LAYERS, MAX_OBJECTS, ObjectAnnotation
from dist_seg.data.codecs.encoded import EncodedTarget
from dist_seg.data.codecs.object_layers import RawObject, decode_object_layers, encode_instances
from dist_seg.data.shards.object_counts import side_histogram, side_percentiles
from dist_seg.errors import DataError
from dist_seg.masks.rle import encode_masks

HEIGHT, WIDTH = 12, 14
Box = tuple[int, int, int, int]


def _mask(top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def _raw(masks: list[NDArray[np.bool_]], crowds: frozenset[int] = frozenset()) -> list[RawObject]:
    rles = [encode_masks(mask[None])[0][0] for mask in masks]
    return [RawObject(id=10 * i, class_id=i % 3, crowd=i in crowds, rle=rle) for i, rle in enumerate(rles)]


def _encode(objects: list[RawObject]) -> EncodedTarget:
    return encode_instances(objects, height=HEIGHT, width=WIDTH, num_classes=3, image_id=1, file_name="x.png")


def _objects(encoded: EncodedTarget) -> tuple[ObjectAnnotation, ...]:
    assert encoded.annotations is not None
    return encoded.annotations.objects


def _layers(encoded: EncodedTarget) -> NDArray[np.int16]:
    return decode_object_layers(encoded.data, HEIGHT)


_boxes = st.tuples(
    st.integers(0, HEIGHT - 1), st.integers(0, WIDTH - 1), st.integers(1, HEIGHT), st.integers(1, WIDTH)
).map(lambda b: (b[0], b[1], min(HEIGHT, b[0] + b[2]), min(WIDTH, b[1] + b[3])))


@settings(max_examples=150, deadline=None)
@given(boxes=st.lists(_boxes, max_size=12), crowds=st.frozensets(st.integers(0, 11), max_size=3))
def test_layers_and_annotations_give_back_each_mask_up_to_its_hidden_pixels(
    boxes: list[Box], crowds: frozenset[int]
) -> None:
    masks = [_mask(*box) for box in boxes]
    encoded = _encode(_raw(masks, crowds))
    layers = _layers(encoded)
    assert 1 <= len(layers) <= MAX_LAYERS
    for i, (mask, found) in enumerate(zip(masks, _objects(encoded), strict=True)):
        places = layers == i + 1
        visible = places[found.layer]
        assert places.sum() == visible.sum()  # only in its layer
        assert not (visible & ~mask).any()
        assert mask.sum() - visible.sum() == found.hidden
    assert set(np.unique(layers).tolist()) <= set(range(len(masks) + 1))


@settings(max_examples=100, deadline=None)
@given(boxes=st.lists(_boxes, max_size=12), crowds=st.frozensets(st.integers(0, 11), max_size=3))
def test_pixels_are_hidden_only_where_more_objects_overlap_than_there_are_layers(
    boxes: list[Box], crowds: frozenset[int]
) -> None:
    masks = [_mask(*box) for box in boxes]
    encoded = _encode(_raw(masks, crowds))
    hidden = sum(o.hidden for o in _objects(encoded))
    if np.sum(masks, axis=0).max(initial=0) <= 1:
        assert (len(_layers(encoded)), hidden) == (1, 0)
    if len(masks) <= MAX_LAYERS:
        assert hidden == 0


@settings(max_examples=50, deadline=None)
@given(boxes=st.lists(_boxes, max_size=8))
def test_pixels_of_a_class_are_those_of_its_objects_in_the_layers(boxes: list[Box]) -> None:
    encoded = _encode(_raw([_mask(*box) for box in boxes], crowds=frozenset({0})))
    layers = _layers(encoded)
    expected = [sum(int((layers == i + 1).sum()) for i in range(1, len(boxes)) if i % 3 == c) for c in range(3)]
    assert list(encoded.class_pixels) == expected


def test_a_fourth_object_over_three_is_hidden_and_counted() -> None:
    encoded = _encode(_raw([_mask(0, 0, 4, 4)] * 3 + [_mask(2, 2, 6, 6)]))
    assert [o.hidden for o in _objects(encoded)] == [0, 0, 0, 4]


def test_crowds_give_way_to_objects() -> None:
    encoded = _encode(_raw([_mask(0, 0, 4, 4)] * 4, crowds=frozenset({0})))
    assert [o.hidden for o in _objects(encoded)] == [16, 0, 0, 0]


def test_area_and_box_are_the_mask_s_where_the_annotation_has_none() -> None:
    (found,) = _objects(_encode(_raw([_mask(2, 3, 5, 9)])))
    assert (found.area, found.bbox) == (18.0, (3.0, 2.0, 6.0, 3.0))


def test_area_and_box_of_the_annotation_are_kept() -> None:
    (rle, _) = encode_masks(_mask(2, 3, 5, 9)[None])[0]
    raw = RawObject(id=1, class_id=0, crowd=False, rle=rle, area=17.5, bbox=(3.2, 2.0, 5.5, 3.0))
    (found,) = _objects(_encode([raw]))
    assert (found.area, found.bbox) == (17.5, (3.2, 2.0, 5.5, 3.0))


def test_an_image_without_objects_has_one_empty_layer() -> None:
    encoded = _encode([])
    assert _layers(encoded).shape == (1, HEIGHT, WIDTH)
    assert not _layers(encoded).any()
    assert _objects(encoded) == ()


def test_layers_are_a_grey_png_of_16_bits() -> None:
    with Image.open(io.BytesIO(_encode(_raw([_mask(0, 0, 4, 4)] * 2)).data)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "I;16", (WIDTH, 2 * HEIGHT))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_id": 3}, "x.png: object 4 has class 3; the classes are 0 to 2"),
        ({"class_id": -1}, "x.png: object 4 has class -1"),
        ({"rle": encode_masks(np.ones((1, 9, 9), bool))[0][0]}, "x.png: the mask of object 4 is not 14x12 pixels"),
        ({"rle": "~"}, "x.png: the mask of object 4 is not 14x12 pixels"),
        ({"rle": encode_masks(np.zeros((1, HEIGHT, WIDTH), bool))[0][0]}, "x.png: the mask of object 4 has no pixel"),
    ],
)
def test_an_object_that_a_reader_gave_wrongly_is_named(changes: dict[str, object], message: str) -> None:
    (rle, _) = encode_masks(_mask(0, 0, 2, 2)[None])[0]
    fields: dict[str, object] = {"id": 4, "class_id": 0, "crowd": False, "rle": rle, **changes}
    with pytest.raises(DataError, match=message):
        _encode([RawObject(**fields)])  # type: ignore[arg-type]  # fields of their own types


def test_more_objects_than_ids_reach_are_refused() -> None:
    with pytest.raises(DataError, match=f"x.png: {MAX_OBJECTS + 1} objects; an image can have at most {MAX_OBJECTS}"):
        _encode([RawObject(id=i, class_id=0, crowd=False, rle="") for i in range(MAX_OBJECTS + 1)])


@given(sides=st.lists(st.floats(1, 5000), min_size=1, max_size=50), percentile=st.integers(1, 100))
def test_percentiles_of_the_sides_are_right_to_a_twelfth(sides: list[float], percentile: int) -> None:
    found = side_percentiles(side_histogram([side**2 for side in sides]).tolist(), [percentile])[0]
    exact = float(np.percentile(sides, percentile, method="inverted_cdf"))
    assert abs(found - exact) <= exact / 12 + 0.05


def test_there_are_no_percentiles_of_nothing() -> None:
    assert side_percentiles(side_histogram([]).tolist(), [50]) == ()
