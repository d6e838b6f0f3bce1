"""The instance task: from detections to instances of the picture, and from these to the result."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from dist_seg.config.schema import AugmentConfig, Config, EvalConfig, MaskRcnnConfig, ModelConfig, TrainConfig
from dist_seg.data.codecs.annotations import ImageAnnotations, ObjectAnnotation
from dist_seg.data.codecs.encoded import BadSample
from dist_seg.data.loading.batch import Batch
from dist_seg.errors import ConfigError
from dist_seg.masks.rle import decode_mask, encode_masks
from dist_seg.metrics.instances import ImageInstances, ScoredInstance
from dist_seg.models.mask_rcnn.detections import Detections
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.instance import InstanceTask, image_instances, to_instances
from dist_seg.tasks.task import EvalResult
from tests.unit.metrics.instance_scenes import box_of, rectangle, scenes
from tests.unit.metrics.pycocotools_scores import differences, summary

CLASSES = ClassInfo(names=("cell", "debris"), palette=((255, 0, 0), (0, 255, 0)), ignore_index=255)
CONFIG = Config(
    task="instance",
    model=ModelConfig(encoder="mobilenetv3_small_050", weights=None),
    mask_rcnn=MaskRcnnConfig(fpn_channels=16, box_channels=32, mask_channels=16, mask_convs=1, roi_samples=32),
    augment=AugmentConfig(crop_height=64, crop_width=96),
    train=TrainConfig(global_batch=4, micro_batch=2),
    eval=EvalConfig(bootstrap_samples=20),
)


def task(**heads: object) -> InstanceTask:
    return InstanceTask(replace(CONFIG, mask_rcnn=replace(CONFIG.mask_rcnn, **heads)), CLASSES)  # type: ignore[arg-type]


def detections(*boxes: Sequence[float], masks: torch.Tensor | None = None) -> Detections:
    count = len(boxes)
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.linspace(0.9, 0.5, count),
        labels=torch.arange(count) % 2,
        masks=torch.ones(count, 28, 28) if masks is None else masks,
    )


def annotated(image: ImageInstances) -> ImageAnnotations:
    objects = tuple(
        ObjectAnnotation(
            id=i, class_id=o.class_id, crowd=o.crowd, area=o.area, bbox=o.bbox, rle=o.rle, pixels=int(o.area), layer=0
        )
        for i, o in enumerate(image.truth)
    )
    return ImageAnnotations(
        image_id=1, file_name=f"{image.key}.png", height=image.height, width=image.width, objects=objects
    )


def batch_of(images: Sequence[ImageInstances], bad: tuple[BadSample, ...] = ()) -> Batch:
    """A batch as the evaluation's loader returns it; its pixels are not used."""
    return Batch(
        images=torch.zeros(len(images), 3, 1, 1),
        targets=torch.zeros(len(images), 1, 1, 1, dtype=torch.int32),
        keys=tuple(image.key for image in images),
        annotations=tuple(annotated(image) for image in images),
        bad=bad,
    )


def result_of(images: Sequence[ImageInstances], **heads: object) -> EvalResult:
    metric = task(**heads).metric()
    for image in images:
        metric.update([image.predictions], batch_of([image]))
    return metric.reduce()


# From detections to instances


def test_boxes_and_masks_are_scaled_to_the_picture() -> None:
    (found,) = to_instances(detections((8, 4, 24, 12)), (32, 64), (64, 256), 0.5)
    assert found.bbox == (32.0, 8.0, 64.0, 16.0)  # four times as wide, twice as high
    mask = decode_mask(found.rle, 64, 256)
    assert np.array_equal(mask, rectangle(8, 32, 16, 64, (64, 256)))
    assert (found.class_id, found.score) == (0, pytest.approx(0.9))


def test_a_mask_is_what_lies_above_the_threshold() -> None:
    halves = torch.full((1, 28, 28), 0.6)
    halves[:, :, 14:] = 0.2
    of = {t: to_instances(detections((0, 0, 28, 28), masks=halves), (28, 28), (28, 28), t) for t in (0.1, 0.5, 0.7)}
    assert [int(decode_mask(of[t][0].rle, 28, 28).sum()) for t in (0.1, 0.5)] == [28 * 28, 28 * 14]
    assert of[0.7] == []  # no pixel is left of it


def test_a_detection_without_a_pixel_is_left_out_and_the_others_keep_their_scores() -> None:
    masks = torch.ones(3, 28, 28)
    masks[1] = 0
    found = to_instances(detections((0, 0, 9, 9), (0, 0, 9, 9), (4, 4, 9, 9), masks=masks), (16, 16), (16, 16), 0.5)
    assert [instance.score for instance in found] == pytest.approx([0.9, 0.5])
    assert found[1].bbox == (4.0, 4.0, 5.0, 5.0)


def test_no_detections_give_no_instances() -> None:
    assert to_instances(detections(), (16, 16), (31, 33), 0.5) == []


def test_prediction_lies_on_the_picture_of_the_asked_size() -> None:
    network = task(score_threshold=0.0, detections_per_image=5)
    torch.manual_seed(0)
    found = network.predict(network.build_model().eval(), torch.randn(2, 3, 64, 96), (32, 200))
    assert len(found) == 2
    for instance in (thing for image in found for thing in image):
        assert isinstance(instance, ScoredInstance)
        x, y, width, height = instance.bbox
        assert x >= 0 and y >= 0 and x + width <= 200.001 and y + height <= 32.001
        assert decode_mask(instance.rle, 32, 200).any()
    assert any(image[0].bbox[0] + image[0].bbox[2] > 96 for image in found if len(image))


# From instances to the result


@pytest.mark.parametrize("limit", [12, 300])
def test_result_has_the_numbers_of_pycocotools(limit: int) -> None:
    images = scenes(6, seed=3, num_classes=2, num_scores=7)
    result = result_of(images, detections_per_image=limit)
    for iou_type in ("bbox", "segm"):
        expected = summary(images, 2, iou_type, limit)
        expected["class_ap"] = dict(zip(CLASSES.names, expected["class_ap"].values(), strict=True))  # type: ignore[attr-defined]
        assert differences(result.document["coco"][iou_type], expected) == []  # type: ignore[index]
    segm = summary(images, 2, "segm", limit)
    assert result.headline["mask_ap"] == pytest.approx(segm["ap"], abs=1e-9)
    assert result.headline["mask_ap/cell"] == pytest.approx(segm["class_ap"]["0"], abs=1e-9)  # type: ignore[index]
    assert result.headline["box_ap50"] == pytest.approx(summary(images, 2, "bbox", limit)["ap50"], abs=1e-9)
    assert (result.score_name, result.score) == ("mask_ap", result.headline["mask_ap"])


def test_open_number_of_detections_is_cocos_hundred() -> None:
    coco = result_of(scenes(1, seed=0, num_classes=2)).document["coco"]
    assert coco["max_detections"] == 100  # type: ignore[index]


def test_exact_instances_score_one_in_every_way() -> None:
    images = [
        replace(
            image,
            truth=truth,
            predictions=tuple(ScoredInstance(class_id=o.class_id, score=0.9, bbox=o.bbox, rle=o.rle) for o in truth),
        )
        for image in scenes(3, seed=1, num_classes=2, max_objects=2)
        if (truth := tuple({o.class_id: o for o in image.truth if not o.crowd}.values())[:1])
    ]
    headline = result_of(images).headline
    assert [headline[name] for name in ("mask_ap", "box_ap", "miou")] == pytest.approx([1, 1, 1])


def test_merged_map_has_a_background_and_leaves_out_what_is_unsure() -> None:
    mask = rectangle(0, 0, 8, 48)
    ((rle, _),) = encode_masks(mask[None])
    sure, unsure = (ScoredInstance(class_id=c, score=s, bbox=box_of(mask), rle=rle) for c, s in ((0, 0.6), (1, 0.4)))
    image = ImageInstances(key="a", height=32, width=48, truth=(), predictions=(sure, unsure))
    result = result_of([image])
    assert result.document["class_names"] == ["background", "cell", "debris"]
    assert result.document["confusion_matrix"] == [[24 * 48, 8 * 48, 0], [0, 0, 0], [0, 0, 0]]


def test_images_without_objects_and_without_predictions_are_counted() -> None:
    empty = ImageInstances(key="empty", height=32, width=48, truth=(), predictions=())
    images = scenes(4, seed=5, num_classes=2)
    with_empty, without = result_of([*images, empty]), result_of(images)
    assert (with_empty.images, without.images) == (5, 4)
    assert with_empty.document["coco"] == without.document["coco"]


def test_no_object_at_all_has_no_score_and_a_result_all_the_same() -> None:
    result = result_of([ImageInstances(key="empty", height=32, width=48, truth=(), predictions=())])
    assert np.isnan(result.score)
    assert result.document["mask_ap"] is None
    assert result.document["mask_ap_interval"] == [None, None]
    assert not [name for name in result.headline if name.startswith("mask_ap/")]


def test_no_image_at_all_has_a_result_all_the_same() -> None:
    assert task().metric().reduce().images == 0


def test_bad_samples_are_named_and_not_scored() -> None:
    metric = task().metric()
    (image,) = scenes(1, seed=0, num_classes=2)
    metric.update([image.predictions], batch_of([image]))
    metric.update((), batch_of([], bad=(BadSample(key="b", shard="val-000000.tar", reason="half a JPEG"),)))
    result = metric.reduce()
    assert result.images == 1
    assert result.document["left_out"] == [{"key": "b", "shard": "val-000000.tar", "reason": "half a JPEG"}]


def test_truth_is_the_annotations_own_and_not_that_of_the_layers() -> None:
    (image,) = scenes(1, seed=2, num_classes=2)
    assert image_instances("image-000", annotated(image), image.predictions) == image


# Training


def test_blank_batch_has_the_shape_of_training_and_objects_in_it() -> None:
    batch = task().blank_batch(torch.device("cpu"))
    assert batch.images.shape == (2, 3, 64, 96)
    assert batch.targets.shape == (2, 1, 64, 96)
    for image, objects in zip(batch.targets, batch.objects, strict=True):
        assert len(objects.boxes) == 16
        for (x1, y1, x2, y2), number in zip(objects.boxes.int().tolist(), objects.ids, strict=True):
            ys, xs = (image[0] == number).nonzero(as_tuple=True)
            assert (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1) == (x1, y1, x2, y2)


@pytest.mark.parametrize("crop", [(1, 1), (3, 500)])
def test_blank_batch_fits_a_crop_of_any_size(crop: tuple[int, int]) -> None:
    config = replace(CONFIG, augment=AugmentConfig(crop_height=crop[0], crop_width=crop[1]))
    batch = InstanceTask(config, CLASSES).blank_batch(torch.device("cpu"))
    for objects in batch.objects:
        assert (objects.boxes[:, 2:] > objects.boxes[:, :2]).all()
        assert (objects.boxes[:, 2] <= crop[1]).all() and (objects.boxes[:, 3] <= crop[0]).all()


def test_loss_is_the_plain_sum_of_the_networks_parts() -> None:
    instances = task()
    torch.manual_seed(0)
    losses = instances.losses(instances.build_model().train(), instances.blank_batch(torch.device("cpu")))
    parts = {name: value for name, value in losses.items() if name != "loss"}
    assert set(parts) == {"rpn_objectness", "rpn_box", "classification", "box", "mask"}
    assert all(part > 0 for part in parts.values())
    torch.testing.assert_close(losses["loss"], sum(parts.values(), torch.zeros(())))


def test_losses_keep_double_precision() -> None:
    parts = {"one": torch.tensor(1.0, dtype=torch.float64), "tiny": torch.tensor(1e-12, dtype=torch.float64)}
    loss = task().losses(lambda *inputs: parts, task().blank_batch(torch.device("cpu")))["loss"]
    assert float(loss) == 1.0 + 1e-12


def test_a_network_that_returns_no_losses_in_training_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.name: auto: .*must return its losses by name.*returned a Tensor"):
        task().losses(lambda *inputs: torch.zeros(()), task().blank_batch(torch.device("cpu")))
