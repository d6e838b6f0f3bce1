"""Gathering instances in one process (tests/distributed has several), and painting them into one map of classes."""

from dataclasses import replace

import numpy as np
import pytest

from dist_seg.metrics.instances import ImageInstances, ScoredInstance, TrueInstance, class_map, gather_images
from tests.unit.metrics.instance_scenes import predicted, rectangle, scenes, true_instance

SIZE = (4, 6)


def image(truth: tuple[TrueInstance, ...] = (), predictions: tuple[ScoredInstance, ...] = ()) -> ImageInstances:
    return ImageInstances(key="a", height=4, width=6, truth=truth, predictions=predictions)


LEFT, RIGHT, ALL = (rectangle(0, left, 4, width, SIZE) for left, width in ((0, 4), (3, 3), (0, 6)))


def test_nothing_is_background() -> None:
    for which in ("truth", "predictions"):
        painted = class_map(image(), which, 1)
        assert painted.dtype == np.uint8 and painted.shape == SIZE and not painted.any()


@pytest.mark.parametrize("turn", [1, -1])
def test_prediction_with_the_best_score_is_on_top(turn: int) -> None:
    found = (predicted(LEFT, 0.9, 0), predicted(RIGHT, 0.8, 4))[::turn]
    assert class_map(image(predictions=found), "predictions", 5).tolist() == [[1, 1, 1, 1, 5, 5]] * 4


def test_of_equal_scores_the_first_is_on_top() -> None:
    found = (predicted(LEFT, 0.9, 0), predicted(RIGHT, 0.9, 4))
    assert class_map(image(predictions=found), "predictions", 5).tolist() == [[1, 1, 1, 1, 5, 5]] * 4


def test_predictions_below_the_threshold_are_left_out() -> None:
    found = (predicted(LEFT, 0.5, 0), predicted(RIGHT, 0.49, 1))
    assert class_map(image(predictions=found), "predictions", 2).tolist() == [[1, 1, 1, 1, 0, 0]] * 4
    assert class_map(image(predictions=found), "predictions", 2, 0.4).max() == 2


@pytest.mark.parametrize("turn", [1, -1])
def test_smallest_true_object_is_on_top_and_crowds_are_ignored(turn: int) -> None:
    things = (true_instance(ALL, 2, crowd=True), true_instance(LEFT, 0), true_instance(RIGHT, 1))[::turn]
    assert class_map(image(truth=things), "truth", 3).tolist() == [[1, 1, 1, 2, 2, 2]] * 4
    assert class_map(image(truth=(things[0],) if turn > 0 else (things[2],)), "truth", 3).min() == 255


def test_the_area_as_annotated_does_not_decide_what_is_on_top() -> None:
    things = (replace(true_instance(ALL, 2), area=0.0), replace(true_instance(LEFT, 0), area=1e9))
    assert class_map(image(truth=things), "truth", 3).tolist() == [[1, 1, 1, 1, 3, 3]] * 4


def test_map_is_not_transposed() -> None:
    mask = rectangle(1, 2, 1, 3, SIZE)
    painted = class_map(image(truth=(true_instance(mask),)), "truth", 1)
    assert np.array_equal(painted > 0, mask)


# Gathering


@pytest.mark.parametrize("piece_bytes", [1, 5_000, 10_000_000])
def test_images_come_back_unchanged_and_by_key(piece_bytes: int) -> None:
    images = scenes(7, seed=0, num_classes=3, max_predictions=10)
    assert gather_images(images[::-1], piece_bytes=piece_bytes) == images


def test_no_image_is_no_image() -> None:
    assert gather_images([]) == []


def test_image_that_comes_twice_is_noticed() -> None:
    images = scenes(3, seed=0, num_classes=1)
    with pytest.raises(AssertionError, match="image-001 was scored twice"):
        gather_images([*images, images[1]])
