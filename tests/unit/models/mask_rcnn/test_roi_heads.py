"""The heads over regions: losses with known values, which regions they train on, and which detections are kept."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dist_seg.config.schema import MaskRcnnConfig
from dist_seg.models.mask_rcnn.detections import Detections
from dist_seg.models.mask_rcnn.roi_heads import RoIHeads
from tests.unit.models.mask_rcnn.detection import SMALL, Objects, ignoring, objects_of, rectangles

SIZE = 64
NUM_CLASSES = 2


def heads_of(cfg: MaskRcnnConfig = SMALL, *, class_logits: list[float] | None = None) -> RoIHeads:
    """Heads that return the same class logits for every region, by default zeros, do not move boxes, and return 0 as
    the logit of every mask cell."""
    heads = RoIHeads(cfg, NUM_CLASSES)
    predictors = (heads.box_predictor.cls_score, heads.box_predictor.bbox_pred, heads.mask_predictor.mask_fcn_logits)
    for layer in predictors:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    if class_logits is not None:
        with torch.no_grad():
            heads.box_predictor.cls_score.bias.copy_(torch.tensor(class_logits))
    return heads


def features(num_images: int = 1) -> list[Tensor]:
    channels = SMALL.fpn_channels
    assert channels is not None
    return [torch.randn(num_images, channels, SIZE // stride, SIZE // stride) for stride in (4, 8, 16, 32, 64)]


def losses_of(heads: RoIHeads, proposals: list[Tensor], objects: list[Objects]) -> dict[str, Tensor]:
    layers = torch.stack([rectangles(of_image, SIZE, SIZE) for of_image in objects])
    return heads.losses(features(len(objects)), (SIZE, SIZE), proposals, objects, layers)


def boxes(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


# Losses


def test_equal_logits_cost_the_log_of_the_number_of_classes_and_of_both_answers_for_a_mask() -> None:
    losses = losses_of(heads_of(), [boxes((0, 0, 8, 8))], [objects_of([(16, 16, 48, 48)], [1])])
    assert losses["classification"].item() == pytest.approx(math.log(NUM_CLASSES + 1))
    assert losses["mask"].item() == pytest.approx(math.log(2))


def test_box_loss_is_the_smooth_l1_of_the_weighted_offsets_over_all_samples() -> None:
    # The proposal is the object moved by a quarter of its width: its offset, weighted by 10, is -2.5. The other two
    # samples are the object's own box, whose offset is 0, and background.
    proposals = boxes((24, 16, 56, 48), (0, 0, 8, 8))
    loss = losses_of(heads_of(), [proposals], [objects_of([(16, 16, 48, 48)])])["box"]
    assert loss.item() == pytest.approx((2.5 - 1 / 18) / 3)


def test_a_region_in_an_ignored_object_is_no_sample() -> None:
    objects = ignoring(objects_of([(16, 16, 48, 48), (0, 0, 12, 12)]), 0)
    heads, sampled = heads_of(), []
    heads.box_head.register_forward_hook(lambda module, inputs, output: sampled.append(len(output)))
    losses_of(heads, [boxes((18, 18, 46, 46))], [objects])
    losses_of(heads, [boxes((40, 0, 60, 12))], [objects])
    # The other object's own box, and in the second case background.
    assert sampled == [1, 2]


def test_no_sample_gives_zero_with_a_graph() -> None:
    losses = losses_of(heads_of(), [boxes()], [objects_of([])])
    assert {name: loss.item() for name, loss in losses.items()} == {"classification": 0, "box": 0, "mask": 0}
    assert all(loss.requires_grad for loss in losses.values())


def test_samples_are_bounded_for_each_image_and_so_are_the_objects_among_them() -> None:
    heads, seen = heads_of(replace(SMALL, roi_samples=8, roi_positive_fraction=0.25)), []
    heads.box_head.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    heads.mask_head.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    everywhere = torch.cat([boxes((16, 16, 48, 48)).expand(20, 4), boxes((0, 0, 8, 8)).expand(20, 4)])
    losses_of(heads, [everywhere, everywhere], [objects_of([(16, 16, 48, 48)])] * 2)
    assert seen == [2 * 8, 2 * 2]


# Detections


def detect(heads: RoIHeads, proposals: Tensor, within: tuple[int, int] = (SIZE, SIZE)) -> Detections:
    (found,) = heads.eval().detect(features(), (SIZE, SIZE), [proposals], within)
    return found


def test_every_region_is_detected_as_each_class_above_the_threshold() -> None:
    heads = heads_of(replace(SMALL, score_threshold=0.25), class_logits=[0.0, math.log(6), math.log(3)])
    found = detect(heads, boxes((0, 0, 16, 16), (32, 32, 48, 48)))
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.scores.tolist() == pytest.approx([0.6, 0.6, 0.3, 0.3])
    assert found.masks.shape == (4, 28, 28) and found.masks.eq(0.5).all()
    heads = heads_of(replace(SMALL, score_threshold=0.5), class_logits=[0.0, math.log(6), math.log(3)])
    assert detect(heads, boxes((0, 0, 16, 16), (32, 32, 48, 48))).labels.tolist() == [0, 0]


def test_of_overlapping_detections_of_a_class_one_is_kept() -> None:
    cfg = replace(SMALL, score_threshold=0.1, nms_threshold=0.5)
    proposals = boxes((0, 0, 16, 16), (0, 0, 16, 17), (0, 12, 16, 28))
    found = detect(heads_of(cfg, class_logits=[0.0, 2.0, 2.0]), proposals)
    assert found.labels.tolist().count(0) == found.labels.tolist().count(1) == 2  # classes do not suppress each other
    assert {tuple(box) for box in found.boxes.tolist()} == {(0, 0, 16, 16), (0, 12, 16, 28)}


def test_no_more_than_the_allowed_detections_are_kept() -> None:
    cfg = replace(SMALL, score_threshold=0.1, detections_per_image=3)
    grid = boxes(*((x, y, x + 8, y + 8) for x in range(0, 48, 16) for y in range(0, 48, 16)))
    assert len(detect(heads_of(cfg, class_logits=[0.0, 2.0, 1.0]), grid).boxes) == 3


def test_boxes_are_clipped_to_the_image_and_those_outside_it_are_dropped() -> None:
    cfg = replace(SMALL, score_threshold=0.4)
    found = detect(heads_of(cfg, class_logits=[0.0, 2.0, 0.0]), boxes((8, 8, 60, 60), (52, 0, 60, 8)), within=(40, 50))
    assert found.boxes.tolist() == [[8, 8, 50, 40]]
