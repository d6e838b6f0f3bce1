"""Instance segmentation: every object by itself, with a class, a score, a box and a mask."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from dist_seg.config.schema import Config
from dist_seg.data.codecs.annotations import ImageAnnotations
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.objects import ImageObjects
from dist_seg.data.view.pixel_values import input_channels
from dist_seg.distributed.collectives import on_main
from dist_seg.masks.drawing import DrawnObject, draw_objects
from dist_seg.masks.rle import encode_masks
from dist_seg.metrics.coco import score_images
from dist_seg.metrics.coco_bootstrap import bootstrap_interval
from dist_seg.metrics.custom import build_metrics
from dist_seg.metrics.instances import ScoredImage, ScoredInstance, TrueInstance, gather_images
from dist_seg.metrics.merged import BACKGROUND, IGNORED, class_map
from dist_seg.models import build_instance_model
from dist_seg.models.mask_rcnn.head_sizes import head_sizes
from dist_seg.models.mask_rcnn.paste import paste_masks
from dist_seg.models.mask_rcnn.rpn import full_precision
from dist_seg.models.mask_rcnn.targets import Detections
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.image_scores import finite
from dist_seg.tasks.semantic import SemanticMetric
from dist_seg.tasks.task import Drawing, EvalResult, Forward, Prediction, class_errors

_BACKGROUND_NAME = "background"
_BACKGROUND_COLOR = (24, 24, 28)
_BLANK_OBJECTS = 16
_ClassAp = Mapping[str, Mapping[str, Mapping[str, float | None]]]


class InstanceTask:
    """A `Task`."""

    def __init__(self, config: Config, classes: ClassInfo) -> None:
        self._config = config
        self._classes = classes

    @property
    def score_classes(self) -> ClassInfo:
        assert BACKGROUND == 0
        return ClassInfo(
            names=(_BACKGROUND_NAME, *self._classes.names),
            palette=(_BACKGROUND_COLOR, *self._classes.palette),
            ignore_index=self._classes.ignore_index,
        )

    def build_model(self) -> nn.Module:
        return build_instance_model(
            self._config.model,
            self._config.mask_rcnn,
            len(self._classes.names),
            in_channels=input_channels(self._config.data),
        )

    def losses(self, forward: Forward, batch: Batch) -> Mapping[str, torch.Tensor]:
        parts = forward(batch.images, batch.objects, batch.targets)
        assert isinstance(parts, Mapping)
        return {"loss": torch.stack([full_precision(part) for part in parts.values()]).sum(), **parts}

    def blank_batch(self, device: torch.device) -> Batch:
        """With a grid of square objects: without any, an estimate of time and memory would be of an empty picture."""
        train, augment = self._config.train, self._config.augment
        assert train.micro_batch is not None and augment.crop_height is not None and augment.crop_width is not None
        size = (augment.crop_height, augment.crop_width)
        images = torch.zeros(train.micro_batch, input_channels(self._config.data), *size, device=device)
        if train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        layers, objects = _grid_of_objects(*size)
        return Batch(
            images=images,
            targets=layers.expand(train.micro_batch, 1, *size).to(device),
            objects=(objects.to(device),) * train.micro_batch,
            keys=("",) * train.micro_batch,
        )

    @torch.inference_mode()
    def predict(self, model: nn.Module, images: torch.Tensor, size: Sequence[int]) -> Prediction:
        """Each image's instances, with boxes and masks in pixels of `size`."""
        height, width = size
        threshold = self._config.mask_rcnn.mask_threshold
        return [
            to_instances(found, images.shape[-2:], (height, width), threshold) for found in self.detect(model, images)
        ]

    @torch.inference_mode()
    def detect(self, model: nn.Module, images: torch.Tensor) -> list[Detections]:
        """What the network finds in each image, in pixels of `images`."""
        return cast(list[Detections], model(images))

    def draw(self, image_HWC: NDArray[np.uint8], prediction: Prediction, batch: Batch) -> Drawing:
        """Draws the predicted objects that also count in the map of classes."""
        least, num_classes = self._config.eval.merge_threshold, len(self._classes.names)
        image = scored_image(batch.keys[0], batch.annotations[0], cast(Sequence[ScoredInstance], prediction[0]))
        truth = [
            DrawnObject(
                box=thing.bbox,
                rle=thing.rle,
                label=self._label(thing.class_id, "crowd" if thing.crowd else ""),
                ignored=thing.crowd,
            )
            for thing in image.truth
        ]
        return Drawing(
            truth=draw_objects(image_HWC, truth),
            prediction=self.draw_instances(image_HWC, [p for p in image.predictions if p.score >= least]),
            errors=class_errors(
                class_map(image, "truth", num_classes),
                class_map(image, "predictions", num_classes, least),
                IGNORED,
            ),
        )

    def draw_instances(self, image_HWC: NDArray[np.uint8], instances: Sequence[ScoredInstance]) -> Image.Image:
        """The image with its instances, each with its class, where there are several, and its score."""
        return draw_objects(
            image_HWC,
            [
                DrawnObject(box=thing.bbox, rle=thing.rle, label=self._label(thing.class_id, f"{thing.score:.2f}"))
                for thing in instances
            ],
        )

    def _label(self, class_id: int, text: str) -> str:
        if class_id < 0:
            return "ignored"
        several = len(self._classes.names) > 1
        return f"{self._classes.names[class_id]} {text}".strip() if several else text

    def metric(self) -> "InstanceMetric":
        return InstanceMetric(self._config, self._classes, self.score_classes)


class InstanceMetric:
    """A `Metric`: COCO's AP of boxes and masks, and the confusion matrix of the instances merged into one map."""

    def __init__(self, config: Config, classes: ClassInfo, merged: ClassInfo) -> None:
        """merged: the classes, with the background first."""
        self._config, self._classes = config, classes
        own = build_metrics(config.eval.metrics, merged.names, merged.ignore_index)
        self._merged = SemanticMetric(
            merged, own, bootstrap_samples=config.eval.bootstrap_samples, seed=config.train.seed
        )
        self._images: list[ScoredImage] = []

    def update(self, prediction: Prediction, batch: Batch) -> None:
        self._merged.leave_out(batch.bad)
        for key, annotations, found in zip(batch.keys, batch.annotations, prediction, strict=True):
            image = scored_image(key, annotations, cast(Sequence[ScoredInstance], found))
            predicted, truth = (
                torch.from_numpy(
                    class_map(image, which, len(self._classes.names), self._config.eval.merge_threshold)
                ).long()
                for which in ("predictions", "truth")
            )
            self._merged.add(key, predicted, truth)
            self._images.append(image)

    def reduce(self) -> EvalResult:
        merged = self._merged.reduce()
        images = gather_images(self._images)
        # Once, as it takes seconds where images have hundreds of objects.
        document = cast(dict[str, object], on_main(lambda: self._score(images)))
        headline = {
            name: value if isinstance(value := document[name], float) else float("nan")
            for name in ("mask_ap", "mask_ap50", "mask_ap75", "box_ap", "box_ap50")
        }
        by_class = cast(_ClassAp, document["coco"])["segm"]["class_ap"]
        by_name = {f"mask_ap/{name}": ap for name, ap in by_class.items() if ap is not None}
        return EvalResult(
            headline={**headline, **merged.headline, **by_name},
            score_name="mask_ap",
            document={**document, **merged.document},
            images=merged.images,
        )

    def _score(self, images: Sequence[ScoredImage]) -> dict[str, object]:
        most = head_sizes(self._config.mask_rcnn).detections_per_image
        scores = score_images(images, self._classes.names, max_detections=most)
        low, high = bootstrap_interval(
            images,
            scores.mask_overlaps,
            max_detections=most,
            num_resamples=self._config.eval.bootstrap_samples,
            seed=self._config.train.seed,
        )
        return {
            "mask_ap": finite(scores.segm.ap),
            "mask_ap_interval": [finite(low), finite(high)],
            "mask_ap50": finite(scores.segm.ap50),
            "mask_ap75": finite(scores.segm.ap75),
            "box_ap": finite(scores.bbox.ap),
            "box_ap50": finite(scores.bbox.ap50),
            "coco": scores.document(),
        }


def scored_image(key: str, annotations: ImageAnnotations, predictions: Sequence[ScoredInstance]) -> ScoredImage:
    """An image's truth and what was found in it."""
    return ScoredImage(
        key=key,
        height=annotations.height,
        width=annotations.width,
        truth=tuple(
            TrueInstance(class_id=o.class_id, crowd=o.crowd, area=o.area, bbox=o.bbox, rle=o.rle)
            for o in annotations.objects
        ),
        predictions=tuple(predictions),
    )


def to_instances(
    found: Detections, input_size: Sequence[int], size: tuple[int, int], mask_threshold: float
) -> list[ScoredInstance]:
    """Detections on the network's input of `input_size` (height, width), for the picture of `size`.

    Masks are pasted and run-length encoded some at a time: all of them as pixels would not fit where there are many.
    Those without a pixel are left out.
    """
    height, width = size
    ratio = torch.tensor(
        [width / input_size[1], height / input_size[0]] * 2, dtype=torch.float32, device=found.boxes.device
    )
    boxes = found.boxes.float() * ratio
    moved = Detections(boxes=boxes, scores=found.scores, labels=found.labels, masks=found.masks.float())
    instances: list[ScoredInstance] = []
    rles = [
        rle
        for masks in paste_masks(moved, height, width, threshold=mask_threshold)
        for rle in encode_masks(masks.cpu().numpy())
    ]
    rows = zip(boxes.tolist(), found.scores.tolist(), found.labels.tolist(), rles, strict=True)
    for (x1, y1, x2, y2), score, label, (rle, area) in rows:
        if area:
            box = (x1, y1, x2 - x1, y2 - y1)
            instances.append(ScoredInstance(class_id=label, score=score, bbox=box, rle=rle))
    return instances


def _grid_of_objects(height: int, width: int) -> tuple[torch.Tensor, ImageObjects]:
    """One layer (1, H, W), and squares of an eighth of the picture in it."""
    side = int(np.sqrt(_BLANK_OBJECTS))
    layers = torch.zeros(1, height, width, dtype=torch.int32)
    boxes = []
    for i in range(_BLANK_OBJECTS):
        y, x = i // side * height // side, i % side * width // side
        y2, x2 = y + max(1, height // (2 * side)), x + max(1, width // (2 * side))
        layers[0, y:y2, x:x2] = i + 1
        boxes.append([x, y, x2, y2])
    zeros = torch.zeros(_BLANK_OBJECTS, dtype=torch.int64)
    return layers, ImageObjects(
        boxes=torch.tensor(boxes, dtype=torch.float32),
        labels=zeros,
        ignored=zeros.bool(),
        layers=zeros,
        ids=torch.arange(1, _BLANK_OBJECTS + 1),
    )
