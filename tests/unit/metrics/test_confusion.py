import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dist_seg.metrics.confusion import (
    confusion_matrix,
    intersection_and_union,
    mean_iou,
    miou_interval,
    segmentation_scores,
)


def counted_one_by_one(
    prediction: NDArray[np.int64], truth: NDArray[np.int64], c: int, ignore: int
) -> NDArray[np.int64]:
    matrix = np.zeros((c, c), dtype=np.int64)
    for p, t in zip(prediction.ravel(), truth.ravel(), strict=True):
        if t != ignore:
            matrix[t, p] += 1
    return matrix


@settings(max_examples=40, deadline=None)
@given(classes=st.sampled_from([1, 2, 7, 181, 250]), pixels=st.integers(0, 200), seed=st.integers(0, 99))
def test_matrix_equals_counting_one_by_one(classes: int, pixels: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    prediction, truth = random.integers(0, classes, pixels), random.integers(0, classes, pixels)
    truth[random.random(pixels) < 0.3] = 255
    matrix = confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(truth), classes, 255)
    assert matrix.dtype == torch.int64
    assert np.array_equal(matrix.numpy(), counted_one_by_one(prediction, truth, classes, 255))


@pytest.mark.parametrize(("prediction", "truth"), [(3, 0), (-1, 0), (0, 3), (0, -1), (2, 200)])
def test_class_id_out_of_range_is_refused(prediction: int, truth: int) -> None:
    with pytest.raises(ValueError, match="class ids must lie in"):
        confusion_matrix(torch.tensor([prediction]), torch.tensor([truth]), 3, 255)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_matrix(torch.zeros(2, dtype=torch.long), torch.zeros(3, dtype=torch.long), 2, 255)


def test_scores_of_a_matrix_worked_by_hand() -> None:
    result = segmentation_scores(np.array([[3, 1, 0], [1, 5, 0], [0, 0, 0]]))
    assert result.iou == (3 / 5, 5 / 7, None)
    assert result.dice == (6 / 8, 10 / 12, None)
    assert result.class_accuracy == (3 / 4, 5 / 6, None)
    assert result.miou == pytest.approx((3 / 5 + 5 / 7) / 2)
    assert result.pixel_accuracy == 0.8
    assert result.mean_accuracy == pytest.approx((3 / 4 + 5 / 6) / 2)
    assert result.frequency_weighted_iou == pytest.approx(0.4 * 3 / 5 + 0.6 * 5 / 7)
    assert result.absent == (2,)


def test_class_that_is_only_predicted_counts_as_zero() -> None:
    result = segmentation_scores(np.array([[4, 1], [0, 0]]))
    assert result.iou == (0.8, 0.0)
    assert result.miou == 0.4
    assert result.class_accuracy == (0.8, None)


def test_miou_agrees_with_torchmetrics() -> None:
    random = np.random.default_rng(0)
    truth = torch.from_numpy(random.integers(0, 6, (4, 40, 40)))
    prediction = torch.where(torch.rand(truth.shape) < 0.7, truth, torch.from_numpy(random.integers(0, 6, truth.shape)))
    reference = torchmetrics.JaccardIndex(task="multiclass", num_classes=6)(prediction, truth)
    ours = segmentation_scores(confusion_matrix(prediction, truth, 6, 255).numpy())
    assert ours.miou == pytest.approx(float(reference), rel=1e-6)


def test_scores_of_nothing_are_nan() -> None:
    result = segmentation_scores(np.zeros((2, 2), dtype=np.int64))
    assert np.isnan(result.miou)
    assert np.isnan(result.pixel_accuracy)


def test_bootstrap_of_equal_images_is_a_point() -> None:
    matrices = np.tile(np.array([[3, 1], [1, 5]]), (20, 1, 1))
    low, high = miou_interval(*intersection_and_union(matrices), num_resamples=50, seed=0)
    assert low == pytest.approx(high) == pytest.approx((3 / 5 + 5 / 7) / 2)


def test_bootstrap_interval_agrees_with_the_normal_approximation() -> None:
    random = np.random.default_rng(1)
    hits = random.binomial(1000, 0.7, size=(400, 1))
    union = np.full((400, 1), 1000)
    low, high = miou_interval(hits, union, num_resamples=2000, seed=0)
    half = 1.96 * (hits / 1000).std() / np.sqrt(400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert low < mean_iou(hits.sum(axis=0), union.sum(axis=0)) < high


def test_bootstrap_depends_on_the_seed_alone() -> None:
    matrices = np.random.default_rng(2).integers(0, 50, (10, 3, 3))
    pair = intersection_and_union(matrices)
    first, again, other = (miou_interval(*pair, num_resamples=100, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
