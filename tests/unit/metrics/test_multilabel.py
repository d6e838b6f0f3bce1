"""The counts of labels that overlap, checked against an independent count, and the scores that follow."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multilabel_jaccard_index

from dist_seg.metrics.multilabel import label_counts, multilabel_scores


def some_case(seed: int, labels: int = 3, ignored: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (labels, 7, 9)
    truth = (torch.rand(shape, generator=generator) < 0.4).to(torch.uint8)
    truth[torch.rand(shape, generator=generator) < ignored] = 255
    return torch.rand(shape, generator=generator) < 0.5, truth


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from((0.0, 0.3, 1.0)))
def test_counts_are_those_of_a_loop(seed: int, ignored: float) -> None:
    prediction, truth = some_case(seed, ignored=ignored)
    wanted = np.zeros((3, 4), np.int64)
    for label in range(3):
        for found, there in zip(prediction[label].flatten().tolist(), truth[label].flatten().tolist(), strict=True):
            if there != 255:
                wanted[label, {(True, 1): 0, (True, 0): 1, (False, 1): 2, (False, 0): 3}[found, there]] += 1
    assert label_counts(prediction, truth, 255).tolist() == wanted.tolist()


def test_iou_is_that_of_torchmetrics() -> None:
    prediction, truth = some_case(1, labels=5)
    expected = multilabel_jaccard_index(
        prediction.flatten(1).T.float(), truth.flatten(1).T.long(), num_labels=5, average="none", ignore_index=255
    )
    found = multilabel_scores(label_counts(prediction, truth, 255).numpy())
    assert found.iou == pytest.approx(expected.tolist())
    assert found.miou == pytest.approx(expected.mean().item())


def test_scores_of_two_labels_by_hand() -> None:
    found = multilabel_scores(np.array([[6, 2, 4, 8], [5, 0, 0, 15]]))
    assert found.iou == (0.5, 1.0)
    assert found.dice == pytest.approx((12 / 18, 1.0))
    assert found.class_accuracy == pytest.approx((0.6, 1.0))
    assert found.precision == pytest.approx((0.75, 1.0))
    assert (found.miou, found.pixel_accuracy) == pytest.approx((0.75, 34 / 40))
    assert found.frequency_weighted_iou == pytest.approx((10 * 0.5 + 5 * 1.0) / 15)
    assert found.absent == ()


def test_a_label_without_truth_and_prediction_is_left_out_of_the_means() -> None:
    found = multilabel_scores(np.array([[3, 1, 0, 6], [0, 0, 0, 10], [0, 2, 0, 8]]))
    assert found.iou == (0.75, None, 0.0)
    assert found.class_accuracy == (1.0, None, None)
    assert found.absent == (1,)
    assert (found.miou, found.mean_accuracy) == pytest.approx((0.375, 1.0))


def test_nothing_counted_has_no_score() -> None:
    found = multilabel_scores(np.zeros((2, 4), np.int64))
    numbers = (found.miou, found.mean_dice, found.mean_accuracy, found.pixel_accuracy, found.frequency_weighted_iou)
    assert all(math.isnan(value) for value in numbers)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        label_counts(torch.zeros(2, 3, 3, dtype=torch.bool), torch.zeros(2, 3, 4), 255)
