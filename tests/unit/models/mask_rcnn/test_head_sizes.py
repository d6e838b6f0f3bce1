"""The sizes that are chosen where the configuration leaves them null."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.config.schema import MaskRcnnConfig
from dist_seg.models.mask_rcnn.head_sizes import (
    PAPER,
    SMALL,
    choose_anchor_sizes,
    choose_detections,
    head_sizes,
    with_head_sizes,
)


def anchors(
    *sides: float, scale: float = 1.0, scale_min: float = 1.0, scale_max: float = 1.0, canvas: float = 2048
) -> tuple[float, ...]:
    return choose_anchor_sizes(sides, scale=scale, scale_min=scale_min, scale_max=scale_max, canvas=canvas)


@pytest.mark.parametrize("sides", [(), (0.0, 0.0)])
def test_without_objects_the_anchors_are_the_papers(sides: tuple[float, ...]) -> None:
    assert anchors(*sides) == (32, 64, 128, 256, 512)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((10, 15, 20), (14, 28, 56, 112, 224)),  # 10 * sqrt(2): the finest map for the smallest
        ((2, 3, 4), (8, 16, 32, 64, 128)),  # nothing below two cells of the finest map
        ((60, 80, 100), (32, 64, 128, 256, 512)),  # no coarser than the paper's without need
        ((60, 1000), (44, 88, 176, 352, 704)),  # the need: 704 * sqrt(2) reaches 1000
        ((10, 1000), (25, 50, 100, 200, 400)),  # six and a half octaves: the middle five
    ],
)
def test_anchors_follow_the_objects(sides: tuple[float, ...], expected: tuple[float, ...]) -> None:
    assert anchors(*sides) == expected


def test_anchors_follow_the_scale_of_the_pictures_and_their_jitter() -> None:
    assert anchors(10, 20, scale=1.5) == anchors(15, 30)
    # Drawn from [1/4, 4], the middle half is [1/2, 2].
    assert anchors(20, 40, scale_min=0.25, scale_max=4.0) == anchors(10, 80)
    # Augmentation only enlarges, but the evaluation sees the objects at their own size.
    assert anchors(20, 1000, scale_min=2.0, scale_max=2.0, canvas=9999) == anchors(20, 2000, canvas=9999)


def test_no_object_is_larger_than_the_crop() -> None:
    assert anchors(10, 1000, canvas=256) == anchors(10, 256)


@given(
    sides=st.lists(st.floats(0, 5000), max_size=5).map(sorted),
    scale=st.floats(0.05, 4),
    scale_min=st.floats(0.05, 2),
    jitter=st.floats(1, 20),
    canvas=st.integers(32, 2048),
)
def test_anchors_rise_by_octaves_and_cover_what_five_octaves_can(
    sides: list[float], scale: float, scale_min: float, jitter: float, canvas: int
) -> None:
    found = choose_anchor_sizes(sides, scale=scale, scale_min=scale_min, scale_max=scale_min * jitter, canvas=canvas)
    assert len(found) == 5 and found[0] >= 8
    assert all(after == 2 * before for before, after in pairwise(found))
    objects = [side * scale for side in sides if side > 0]
    if objects:
        low, high = max(min(objects), 8 / 2**0.5), min(max(objects), canvas)
        middle = max(low, min(high, (low * max(low, high)) ** 0.5))
        rounding = 0.5 / found[0]
        assert found[0] / 2**0.5 <= middle * (1 + rounding) * (1 + 1e-9) or found[0] == 8
        assert found[-1] * 2**0.5 >= min(high, middle) * (1 - rounding)


@pytest.mark.parametrize(
    ("most_objects", "expected"), [(0, 100), (42, 100), (75, 100), (76, 200), (375, 500), (32767, 1000)]
)
def test_detections_leave_room_above_the_most_objects(most_objects: int, expected: int) -> None:
    assert choose_detections(most_objects, most_proposals=1000) == expected


def test_few_proposals_do_not_lower_the_detections_below_the_papers() -> None:
    assert choose_detections(500, most_proposals=20) == 100


def test_what_is_set_is_kept_and_the_rest_is_the_default() -> None:
    cfg = MaskRcnnConfig(fpn_channels=48, anchor_sizes=(1, 2, 4, 8, 16))
    sizes = head_sizes(cfg, SMALL)
    assert (sizes.fpn_channels, sizes.anchor_sizes, sizes.box_channels) == (48, (1, 2, 4, 8, 16), SMALL.box_channels)
    assert head_sizes(MaskRcnnConfig()) == PAPER


def test_a_configuration_with_sizes_leaves_nothing_open() -> None:
    cfg = with_head_sizes(MaskRcnnConfig(roi_samples=7), SMALL)
    assert (cfg.roi_samples, cfg.mask_samples, cfg.detections_per_image) == (7, 32, 100)
    assert with_head_sizes(cfg, PAPER) == cfg
