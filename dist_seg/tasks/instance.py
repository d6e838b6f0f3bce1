"""Instance segmentation: a class, a score, a box and a mask for every object."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

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
from dist_seg.errors import ConfigError
from dist_seg.masks.drawing import DrawnObject, draw_objects
from dist_seg.masks.rle import encode_masks
from dist_seg.metrics.ap_interval import ap_interval
from dist_seg.metrics.coco import score_images
from dist_seg.metrics.instances import (
    BACKGROUND,
    IGNORED,
    ImageInstances,
    ScoredInstance,
    TrueInstance,
    class_map,
    gather_images,
)
from dist_seg.models import build_instance_model
from dist_seg.models.mask_rcnn.detections import Detections, paste_masks
from dist_seg.models.mask_rcnn.head_sizes import head_sizes
from dist_seg.runtime.documents import convert
from dist_seg.runtime.precision import at_least_float32
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.image_scores import finite
from dist_seg.tasks.network_io import blank_images
from dist_seg.tasks.semantic import SemanticMetric
from dist_seg.tasks.task import Drawing, EvalResult, Forward, Prediction, class_errors

_BACKGROUND_NAME = "background"
_BACKGROUND_COLOR = (24, 24, 28)
_BLANK_OBJECTS = 16


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What rank 0 scores and every rank gets."""

    document: dict[str, object]
    """For `result.json`."""
    class_ap: dict[str, float | None]
    """AP of masks by class name."""


class InstanceTask:
    """A `Task`. A prediction is each image's instances, by falling score."""

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
        if not isinstance(parts, Mapping):
            raise ConfigError(
                f"model.name: {self._config.model.name}: a network for the task `instance` must return its losses by "
                f"name in training, this one returned a {type(parts).__name__}"
            )
        return {"loss": torch.stack([at_least_float32(part) for part in parts.values()]).sum(), **parts}

    def blank_batch(self, device: torch.device) -> Batch:
        """Holds a grid of objects, so that time and memory are not estimated for images without any."""
        images = blank_images(self._config, device)
        count, _, height, width = images.shape
        layers, objects = _grid_of_objects(height, width)
        return Batch(
            images=images,
            targets=layers.expand(count, 1, height, width).to(device),
            objects=(objects.to(device),) * count,
            keys=("",) * count,
        )

    @torch.inference_mode()
    def predict(self, model: nn.Module, images: torch.Tensor, size: Sequence[int]) -> Prediction:
        """Each image's instances by falling score, with boxes and masks in pixels of `size` (height, width)."""
        height, width = size
        threshold = self._config.mask_rcnn.mask_threshold
        return [
            to_instances(found, images.shape[-2:], (height, width), threshold) for found in self.detect(model, images)
        ]

    @torch.inference_mode()
    def detect(self, model: nn.Module, images: torch.Tensor) -> list[Detections]:
        """What the network finds in each image, in pixels of `images` (B, C, H, W)."""
        found: list[Detections] = model(images)
        return found

    def draw(self, image_HWC: NDArray[np.uint8], prediction: Prediction, batch: Batch) -> Drawing:
        """Draws the predicted objects that also count in the map of classes."""
        min_score, num_classes = self._config.eval.merge_threshold, len(self._classes.names)
        assert not isinstance(prediction, torch.Tensor)
        image = image_instances(batch.keys[0], batch.annotations[0], prediction[0])
        truth = [
            DrawnObject(
                box=instance.bbox,
                rle=instance.rle,
                label=self._label(instance.class_id, "crowd" if instance.crowd else ""),
                ignored=instance.crowd,
            )
            for instance in image.truth
        ]
        return Drawing(
            truth=draw_objects(image_HWC, truth),
            prediction=self.draw_instances(image_HWC, [p for p in image.predictions if p.score >= min_score]),
            errors=class_errors(
                class_map(image, "truth", num_classes),
                class_map(image, "predictions", num_classes, min_score),
                IGNORED,
            ),
        )

    def draw_instances(self, image_HWC: NDArray[np.uint8], instances: Sequence[ScoredInstance]) -> Image.Image:
        """The image (H, W, 3) with its instances, each labelled with its score, and with its class if there are
        several."""
        return draw_objects(
            image_HWC,
            [
                DrawnObject(
                    box=instance.bbox, rle=instance.rle, label=self._label(instance.class_id, f"{instance.score:.2f}")
                )
                for instance in instances
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
    """A `Metric`: COCO's AP of boxes and masks, and the scores of the instances painted into one map of classes."""

    def __init__(self, config: Config, classes: ClassInfo, map_classes: ClassInfo) -> None:
        """map_classes: the background, then `classes`."""
        self._config, self._classes = config, classes
        self._map = SemanticMetric(config, map_classes)
        self._images: list[ImageInstances] = []

    def update(self, prediction: Prediction, batch: Batch) -> None:
        assert not isinstance(prediction, torch.Tensor)
        self._map.leave_out(batch.bad)
        for key, annotations, found in zip(batch.keys, batch.annotations, prediction, strict=True):
            image = image_instances(key, annotations, found)
            predicted, truth = (
                torch.from_numpy(
                    class_map(image, which, len(self._classes.names), self._config.eval.merge_threshold)
                ).long()
                for which in ("predictions", "truth")
            )
            self._map.add(key, predicted, truth)
            self._images.append(image)

    def reduce(self) -> EvalResult:
        map_result = self._map.reduce()
        images = gather_images(self._images)
        # On one rank only: it takes seconds if images have hundreds of objects.
        scored = convert(on_main(lambda: asdict(self._score(images))), _Scored, "instance scores")
        document, class_ap = scored.document, scored.class_ap
        headline = {
            name: value if isinstance(value := document[name], float) else float("nan")
            for name in ("mask_ap", "mask_ap50", "mask_ap75", "box_ap", "box_ap50")
        }
        by_name = {f"mask_ap/{name}": ap for name, ap in class_ap.items() if ap is not None}
        return EvalResult(
            headline={**headline, **map_result.headline, **by_name},
            score_name="mask_ap",
            document={**document, **map_result.document},
            images=map_result.images,
        )

    def _score(self, images: Sequence[ImageInstances]) -> _Scored:
        max_detections = head_sizes(self._config.mask_rcnn).detections_per_image
        scores = score_images(images, self._classes.names, max_detections=max_detections)
        interval = ap_interval(
            images,
            scores.mask_overlaps,
            max_detections=max_detections,
            num_resamples=self._config.eval.bootstrap_samples,
            seed=self._config.train.seed,
        )
        document: dict[str, object] = {
            "mask_ap": finite(scores.segm.ap),
            "mask_ap_interval": [finite(bound) for bound in interval],
            "mask_ap50": finite(scores.segm.ap50),
            "mask_ap75": finite(scores.segm.ap75),
            "box_ap": finite(scores.bbox.ap),
            "box_ap50": finite(scores.bbox.ap50),
            "coco": scores.document(),
        }
        return _Scored(document=document, class_ap=dict(zip(self._classes.names, scores.segm.class_ap, strict=True)))


def image_instances(key: str, annotations: ImageAnnotations, predictions: Sequence[ScoredInstance]) -> ImageInstances:
    """An image's annotated objects and the predicted ones."""
    return ImageInstances(
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
    """Turns detections on a network's input into instances of the picture, in the same order.

    input_size, size: (height, width) of the input and of the picture. Masks are pasted and encoded as run lengths a
    few at a time, because hundreds of them do not fit into memory as pixels. Instances without a pixel are left out.
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
    """A layer of object ids (1, H, W) int32, and its 16 objects, each an eighth of the picture high and wide."""
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
