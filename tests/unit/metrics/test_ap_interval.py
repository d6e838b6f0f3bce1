"""The matches behind the AP, and its interval: equal to the evaluator's own numbers on the images of a resample."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dist_seg.metrics.ap_interval import ap_interval, average_precision, match_detections, match_images
from dist_seg.metrics.coco import score_images
from dist_seg.metrics.instances import ImageInstances, ScoredInstance
from tests.unit.metrics.instance_scenes import predicted, rectangle, scenes, true_instance
from tests.unit.metrics.pycocotools_scores import evaluated

CASES = [(0, 6, 3, 40, 100), (1, 5, 1, 150, 500), (2, 4, 2, 150, 20), (3, 8, 6, 5, 100)]


def resampled_ap(images: list[ImageInstances], limit: int, times_BI: NDArray[np.int64]) -> NDArray[np.float64]:
    """The AP of each resample; images: in the order of their keys."""
    scores = score_images(images, [str(c) for c in range(9)], max_detections=limit)
    return average_precision(match_images(images, scores.mask_overlaps, max_detections=limit), times_BI)


@pytest.mark.parametrize("case", CASES)
def test_every_image_once_gives_the_ap_of_the_evaluation(case: tuple[int, int, int, int, int]) -> None:
    seed, num_images, num_classes, max_predictions, limit = case
    images = scenes(num_images, seed, num_classes=num_classes, max_predictions=max_predictions)
    scores = score_images(images, [str(c) for c in range(num_classes)], max_detections=limit)
    once = np.ones((1, num_images), dtype=np.int64)
    matches = match_images(images, scores.mask_overlaps, max_detections=limit)
    assert average_precision(matches, once)[0] == pytest.approx(scores.segm.ap, abs=1e-9)
    by_class = [average_precision([match], once)[0] for match in matches]
    assert by_class == pytest.approx([ap for ap in scores.segm.class_ap if ap is not None], abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), limit=st.sampled_from([5, 100]))
def test_resample_gives_the_ap_of_images_copied_as_often(seed: int, limit: int) -> None:
    random = np.random.default_rng(seed)
    images = [without_ties(image, random) for image in scenes(5, seed, num_classes=3, max_predictions=25)]
    times_BI = random.multinomial(5, np.full(5, 0.2), size=4)
    found = resampled_ap(images, limit, times_BI)
    for ap, times in zip(found, times_BI, strict=True):
        copies = [
            replace(image, key=f"{image.key}-{copy}")
            for image, count in zip(images, times, strict=True)
            for copy in range(count)
        ]
        expected = score_images(copies, "abc", max_detections=limit).segm.ap
        assert ap == pytest.approx(expected, abs=1e-9, nan_ok=True)


def without_ties(image: ImageInstances, random: np.random.Generator) -> ImageInstances:
    moved = tuple(replace(p, score=p.score + float(random.uniform(0, 0.01))) for p in image.predictions)
    return replace(image, predictions=moved)


def test_matches_are_those_of_pycocotools() -> None:
    images = scenes(8, seed=5, num_classes=1, max_predictions=60)
    scores = score_images(images, ["cell"], max_detections=30)
    compared = 0
    results = evaluated(images, 1, "segm", 30).evalImgs[: len(images)]  # all sizes come first
    for image, result in zip(images, results, strict=True):
        if result is None or (image.key, 0) not in scores.mask_overlaps:
            continue
        crowds = np.array([thing.crowd for thing in image.truth])
        matched, ignored = match_detections(scores.mask_overlaps[image.key, 0], crowds)
        assert np.array_equal(matched, result["dtMatches"] > 0)
        assert np.array_equal(ignored, result["dtIgnore"] > 0)
        compared += int(matched.sum())
    assert compared > 100


def one_object(key: str, score: float, *, found: bool) -> ImageInstances:
    place = rectangle(0, 0, 8, 8)
    prediction: ScoredInstance = predicted(place if found else rectangle(20, 20, 8, 8), score)
    return ImageInstances(key=key, height=32, width=48, truth=(true_instance(place),), predictions=(prediction,))


def test_resample_worked_by_hand() -> None:
    images = [one_object("a", 0.9, found=True), one_object("b", 0.8, found=False), one_object("c", 0.7, found=True)]
    times = np.array([[3, 0, 0], [0, 3, 0], [1, 2, 0], [1, 1, 1]])
    # a alone: all found. b alone: none. a, b, b: one of three found at once, 34 of 101 recall levels (0 to 0.33).
    # a, b, c: up to recall 1/3 precision 1, up to 2/3 (33 levels more) 2/3.
    expected = [1, 0, 34 / 101, (34 + 33 * 2 / 3) / 101]
    assert resampled_ap(images, 100, times) == pytest.approx(expected)


def interval(images: list[ImageInstances], *, num_resamples: int = 200, seed: int = 0) -> tuple[float, float]:
    scores = score_images(images, ["cell"], max_detections=100)
    return ap_interval(images, scores.mask_overlaps, max_detections=100, num_resamples=num_resamples, seed=seed)


def test_interval_of_equal_images_is_a_point() -> None:
    assert interval([one_object(str(i), 0.5, found=True) for i in range(9)]) == pytest.approx((1, 1))


def test_interval_agrees_with_the_normal_approximation() -> None:
    # Wrong detections have the lowest scores, so the AP is about the share of images that are right.
    found = np.random.default_rng(1).random(300) < 0.6
    images = [one_object(f"{i:03d}", 0.9 if hit else 0.1, found=bool(hit)) for i, hit in enumerate(found)]
    low, high = interval(images, num_resamples=1000)
    assert (high - low) / 2 == pytest.approx(1.96 * found.std() / np.sqrt(300), rel=0.12)
    assert low < found.mean() < high


def test_interval_depends_on_the_seed_alone() -> None:
    images = scenes(6, seed=1, num_classes=1)
    first, again, other = interval(images), interval(images[::-1]), interval(images, seed=1)
    assert first == again != other


@pytest.mark.parametrize(
    "images",
    [
        [],
        [ImageInstances(key="a", height=4, width=4, truth=(), predictions=())],
        [ImageInstances(key="a", height=32, width=48, truth=(), predictions=(predicted(rectangle(0, 0, 4, 4), 0.5),))],
    ],
)
def test_without_objects_there_is_no_interval(images: list[ImageInstances]) -> None:
    assert all(math.isnan(end) for end in interval(images))


def test_without_resamples_there_is_no_interval() -> None:
    assert all(math.isnan(end) for end in interval([one_object("a", 0.5, found=True)], num_resamples=0))


def test_resamples_without_objects_are_left_out() -> None:
    empty = [ImageInstances(key=f"z{i}", height=4, width=4, truth=(), predictions=()) for i in range(3)]
    assert interval([one_object("a", 0.5, found=True), *empty]) == pytest.approx((1, 1))
