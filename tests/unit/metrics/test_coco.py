"""Instance scores: worked by hand, and equal to pycocotools on drawn scenes."""

import contextlib
import io
import logging
import math
import random as shuffling

import pytest

from dist_seg.metrics.ap_interval import ap_interval
from dist_seg.metrics.coco import CocoScores, score_images
from dist_seg.metrics.instances import ImageInstances, ScoredInstance, TrueInstance
from tests.unit.metrics.instance_scenes import predicted, rectangle, scenes, true_instance
from tests.unit.metrics.pycocotools_scores import differences, evaluated, summary

NUMBERS = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
NUMBERS += ["ar_1", "ar_10", "ar_max", "ar_small", "ar_medium", "ar_large"]  # in the order of pycocotools' summary


def image(
    truth: list[TrueInstance], predictions: list[ScoredInstance], key: str = "a", size: tuple[int, int] = (32, 48)
) -> ImageInstances:
    return ImageInstances(key=key, height=size[0], width=size[1], truth=tuple(truth), predictions=tuple(predictions))


def scored(*images: ImageInstances, num_classes: int = 1, max_detections: int = 100) -> CocoScores:
    """The scores of masks; the boxes of rectangles have the same."""
    names = [str(c) for c in range(num_classes)]
    scores = score_images(images, names, max_detections=max_detections)
    assert differences(scores.bbox.document(names), scores.segm.document(names)) == []
    return scores.segm


OBJECT = rectangle(2, 3, 10, 20)


def test_scoring_says_nothing_to_the_user(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO):
        scored(image([true_instance(OBJECT)], [predicted(OBJECT, 0.3)]))
    assert caplog.records == []
    assert capsys.readouterr() == ("", "")


def test_object_that_is_found_exactly_scores_one() -> None:
    scores = scored(image([true_instance(OBJECT)], [predicted(OBJECT, 0.3)]))
    assert scores.ap == scores.ap50 == scores.ap75 == scores.ap_small == scores.ar_1 == scores.ar_max == 1
    assert math.isnan(scores.ap_medium) and math.isnan(scores.ar_large)


def test_object_that_is_missed_scores_nothing() -> None:
    scores = scored(image([true_instance(OBJECT)], [predicted(rectangle(20, 30, 5, 5), 0.9)]))
    assert scores.ap == scores.ar_max == 0


def test_overlap_of_three_quarters_counts_at_six_of_ten_thresholds() -> None:
    scores = scored(image([true_instance(OBJECT)], [predicted(rectangle(2, 3, 10, 15), 0.9)]))
    assert scores.ap == pytest.approx(0.6) and scores.ar_max == pytest.approx(0.6)
    assert scores.ap50 == scores.ap75 == 1


def test_wrong_detection_before_the_right_one_halves_precision() -> None:
    scores = scored(image([true_instance(OBJECT)], [predicted(rectangle(20, 30, 5, 5), 0.9), predicted(OBJECT, 0.5)]))
    assert scores.ap == pytest.approx(0.5) and scores.ar_max == 1 and scores.ar_1 == 0


def test_second_detection_of_an_object_is_wrong() -> None:
    other = rectangle(20, 30, 8, 8)
    found = [predicted(OBJECT, 0.9), predicted(OBJECT, 0.8), predicted(other, 0.7)]
    scores = scored(image([true_instance(OBJECT), true_instance(other)], found))
    # Precision is 1 up to recall 0.5 (51 of 101 levels), then 2/3.
    assert scores.ap == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_detections_in_a_crowd_count_neither_way() -> None:
    crowd = rectangle(14, 0, 18, 48)
    inside = [predicted(rectangle(15, 5 * i, 6, 4), 0.95) for i in range(6)]
    truth = [true_instance(OBJECT), true_instance(crowd, crowd=True)]
    assert scored(image(truth, [*inside, predicted(OBJECT, 0.5)])).ap == 1
    assert scored(image(truth, inside)).ap == 0


def test_crowds_alone_are_nothing_to_find() -> None:
    scores = scored(image([true_instance(OBJECT, crowd=True)], [predicted(OBJECT, 0.5)]))
    assert math.isnan(scores.ap) and scores.class_ap == (None,)


def test_class_without_objects_is_left_out_of_the_mean() -> None:
    found = [predicted(OBJECT, 0.5, 0), predicted(OBJECT, 0.9, 1)]
    scores = scored(image([true_instance(OBJECT, 0)], found), num_classes=3)
    assert scores.ap == 1 and scores.class_ap == (1, None, None)


def test_detections_beyond_the_limit_are_cut_by_score() -> None:
    objects = [rectangle(4 * (i // 12), 4 * (i % 12), 3, 3) for i in range(60)]
    found = [predicted(mask, 0.5 - i / 1000) for i, mask in enumerate(objects)]
    whole = image([true_instance(mask) for mask in objects], found)
    assert scored(whole, max_detections=100).ar_max == 1
    few = scored(whole, max_detections=30)
    assert few.ar_max == pytest.approx(0.5) and few.ar_10 == pytest.approx(1 / 6) and few.ar_1 == pytest.approx(1 / 60)
    assert scored(whole, max_detections=6).ar_max == pytest.approx(0.1)


@pytest.mark.parametrize("max_detections", [1, 5, 10, 100, 500])
def test_without_objects_every_number_is_none(max_detections: int) -> None:
    nothing = {**dict.fromkeys(NUMBERS), "class_ap": {"cell": None}}
    for images in ([], [image([], [])], [image([], [predicted(OBJECT, 0.5)])]):
        document = score_images(images, ["cell"], max_detections=max_detections).document()
        assert document == {"max_detections": max_detections, "bbox": nothing, "segm": nothing}


def test_without_predictions_every_score_is_zero() -> None:
    scores = scored(image([true_instance(OBJECT)], []))
    assert scores.ap == scores.ap50 == scores.ap_small == scores.ar_max == 0


def test_order_of_images_does_not_matter_even_with_ties() -> None:
    images = scenes(8, seed=3, num_classes=2, num_scores=2)
    document = score_images(images, "ab", max_detections=100).document()
    for seed in range(3):
        shuffling.Random(seed).shuffle(images)
        assert score_images(images, "ab", max_detections=100).document() == document


CASES = [
    # (seed, images, classes, predictions per image, limit)
    (0, 6, 3, 40, 100),
    (1, 6, 3, 40, 500),
    (2, 4, 1, 150, 100),  # more predictions than the limit
    (3, 4, 1, 150, 500),
    (4, 4, 2, 150, 20),
    (5, 5, 5, 3, 100),
    (6, 12, 4, 30, 300),
    (7, 1, 9, 30, 100),  # classes without objects
]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("case", CASES)
def test_every_number_is_that_of_pycocotools(case: tuple[int, int, int, int, int], iou_type: str) -> None:
    seed, num_images, num_classes, max_predictions, limit = case
    images = scenes(num_images, seed, num_classes=num_classes, max_predictions=max_predictions, max_objects=14)
    names = [str(c) for c in range(num_classes)]
    document = score_images(images, names, max_detections=limit).document()
    assert differences(document[iou_type], summary(images, num_classes, iou_type, limit)) == []


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_at_a_hundred_detections_the_numbers_are_those_that_pycocotools_prints(iou_type: str) -> None:
    images = scenes(6, seed=9, num_classes=2)
    evaluation = evaluated(images, 2, iou_type, 100)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    found = getattr(score_images(images, "ab", max_detections=100), iou_type)
    assert [getattr(found, name) for name in NUMBERS] == pytest.approx(list(evaluation.stats), abs=1e-9)


def test_scoring_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    score_images(scenes(2, seed=0, num_classes=1), ["cell"], max_detections=100)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_masks_without_a_pixel_are_scored_as_pycocotools_does(iou_type: str) -> None:
    nothing = rectangle(0, 0, 0, 0)
    truth = [true_instance(nothing), true_instance(OBJECT), true_instance(nothing, crowd=True)]
    images = [image(truth, [predicted(nothing, 0.9), predicted(OBJECT, 0.8), predicted(nothing, 0.7)])]
    document = score_images(images, ["0"], max_detections=100).document()
    assert differences(document[iou_type], summary(images, 1, iou_type, 100)) == []


def test_a_crowd_of_every_class_is_a_crowd_of_each() -> None:
    ignored, other = rectangle(14, 0, 18, 48), rectangle(2, 30, 8, 8)
    inside = [predicted(rectangle(15, 5 * i, 6, 4), 0.95, class_id=i % 2) for i in range(6)]
    found = [*inside, predicted(OBJECT, 0.5, 0), predicted(other, 0.4, 1)]
    things = [true_instance(OBJECT, 0), true_instance(other, 1)]
    whole = image([*things, true_instance(ignored, -1, crowd=True)], found)
    assert scored(whole, num_classes=2).class_ap == (1, 1)
    assert scored(image(things, found), num_classes=2).ap < 0.5
    each = image([*things, *(true_instance(ignored, c, crowd=True) for c in range(2))], found)
    names = ["a", "b"]
    as_one, as_two = (score_images([scene], names, max_detections=9) for scene in (whole, each))
    assert as_one.document() == as_two.document()
    intervals = [
        ap_interval([scene], scores.mask_overlaps, max_detections=9, num_resamples=5, seed=0)
        for scene, scores in ((whole, as_one), (each, as_two))
    ]
    assert intervals[0] == intervals[1] == pytest.approx((1, 1))
