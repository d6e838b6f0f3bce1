"""COCO's average precision (AP) and recall (AR) for boxes and masks (Lin et al. 2014); equal to pycocotools' numbers.

Letters after the names of arrays: T IoU thresholds, R recall levels, K classes, A size ranges (all, small, medium,
large), M limits on the number of detections; D detections and G objects of one class in one image.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle_masks
from numpy.typing import NDArray

from dist_seg.metrics.instances import ImageInstances

IouType = Literal["bbox", "segm"]
Overlaps = Mapping[tuple[str, int], NDArray[np.float64]]
"""IoU (D, G) by image key and class id. Detections are sorted by falling score, objects are in the image's order. For a
crowd the value is the share of the detection inside it. Images without a detection or an object of the class are left
out."""

_log = logging.getLogger(__name__)

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
"""Indices of the size ranges."""
_IOU_50, _IOU_75 = 0, 5
"""Indices of the IoU thresholds 0.50 and 0.75."""


@dataclass(frozen=True, kw_only=True)
class CocoScores:
    """COCO's numbers in [0, 1] for boxes or for masks; NaN if there is nothing to average, such as no small object.

    Means are over the classes in the truth, and over the IoU thresholds 0.50, 0.55, ..., 0.95 unless the name has one.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    """Small objects: up to 32² pixels; medium: up to 96²; large: above."""
    ap_medium: float
    ap_large: float
    ar_1: float
    """Recall with one detection per image and class; `ar_10`: with ten; `ar_max`: with `max_detections`."""
    ar_10: float
    ar_max: float
    ar_small: float
    ar_medium: float
    ar_large: float
    class_ap: tuple[float | None, ...]
    """AP of each class; None for a class without objects in the truth."""

    def document(self, class_names: Sequence[str]) -> dict[str, object]:
        """The numbers, JSON-ready: None instead of NaN, classes by name."""
        numbers = {name: value for name, value in asdict(self).items() if name != "class_ap"}
        finite = {name: None if math.isnan(value) else value for name, value in numbers.items()}
        return {**finite, "class_ap": dict(zip(class_names, self.class_ap, strict=True))}


@dataclass(frozen=True, kw_only=True)
class InstanceScores:
    """The scores of a set of images."""

    bbox: CocoScores
    segm: CocoScores
    class_names: tuple[str, ...]
    max_detections: int
    mask_overlaps: Overlaps = field(repr=False, compare=False)
    """For `ap_interval`."""

    def document(self) -> dict[str, object]:
        """The scores, JSON-ready."""
        return {
            "max_detections": self.max_detections,
            "bbox": self.bbox.document(self.class_names),
            "segm": self.segm.document(self.class_names),
        }


def score_images(
    images: Sequence[ImageInstances], class_names: Sequence[str], *, max_detections: int
) -> InstanceScores:
    """COCO's numbers for boxes and masks. They do not depend on the order of the images.

    max_detections: only this many detections per image and class count, those with the highest scores. The size range
    of a detection follows from what is scored: the area of the box, or the pixels of the mask.
    """
    assert max_detections > 0
    ordered = sorted(images, key=lambda image: image.key)  # the order decides between equal scores in different images
    bbox, _ = _score(ordered, len(class_names), "bbox", max_detections)
    segm, overlaps = _score(ordered, len(class_names), "segm", max_detections)
    return InstanceScores(
        bbox=bbox,
        segm=segm,
        class_names=tuple(class_names),
        max_detections=max_detections,
        mask_overlaps=overlaps,
    )


def _score(
    images: Sequence[ImageInstances], num_classes: int, iou_type: IouType, max_detections: int
) -> tuple[CocoScores, Overlaps]:
    # The evaluator's own summary is not used: it prints, and its layout depends on the limits.
    limits = sorted({1, 10, max_detections})
    evaluator = COCOeval_faster(
        _data_set(images, num_classes, _true_entries(images)),
        _data_set(images, num_classes, _predicted_entries(images, iou_type)),
        iou_type,
        # By default it prints the progress of every evaluation.
        print_function=_log.debug,
    )
    evaluator.params.maxDets = limits
    evaluator.evaluate()
    evaluator.accumulate()
    precision_TRKAM: NDArray[np.float64] = evaluator.eval["precision"]
    recall_TKAM: NDArray[np.float64] = evaluator.eval["recall"]
    last = limits.index(max_detections)
    precision, recall = precision_TRKAM[..., last], recall_TKAM[..., last]
    by_class = [_mean(precision[:, :, k, _ALL]) for k in range(num_classes)]
    found = CocoScores(
        ap=_mean(precision[..., _ALL]),
        ap50=_mean(precision[_IOU_50, ..., _ALL]),
        ap75=_mean(precision[_IOU_75, ..., _ALL]),
        ap_small=_mean(precision[..., _SMALL]),
        ap_medium=_mean(precision[..., _MEDIUM]),
        ap_large=_mean(precision[..., _LARGE]),
        ar_1=_mean(recall_TKAM[..., _ALL, limits.index(1)]),
        ar_10=_mean(recall_TKAM[..., _ALL, limits.index(10)]),
        ar_max=_mean(recall[..., _ALL]),
        ar_small=_mean(recall[..., _SMALL]),
        ar_medium=_mean(recall[..., _MEDIUM]),
        ar_large=_mean(recall[..., _LARGE]),
        class_ap=tuple(None if math.isnan(ap) else ap for ap in by_class),
    )
    overlaps = {
        (images[int(number) - 1].key, int(class_id)): np.asarray(overlap)
        for (number, class_id), overlap in evaluator.ious.items()
        if len(overlap)
    }
    return found, overlaps


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of the defined values; the evaluator writes -1 if there is no object to find."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _data_set(images: Sequence[ImageInstances], num_classes: int, entries: list[dict[str, object]]) -> COCO:
    for number, entry in enumerate(entries, start=1):  # the evaluator reads 0 as "not matched"
        entry["id"] = number
    return COCO(
        {
            "images": [{"id": i, "height": image.height, "width": image.width} for i, image in enumerate(images, 1)],
            "categories": [{"id": class_id, "name": str(class_id)} for class_id in range(num_classes)],
            "annotations": entries,
        }
    )


def _true_entries(images: Sequence[ImageInstances]) -> list[dict[str, object]]:
    return [
        {
            "image_id": number,
            "category_id": instance.class_id,
            "iscrowd": int(instance.crowd),
            "area": instance.area,
            "bbox": list(instance.bbox),
            "segmentation": {"size": [image.height, image.width], "counts": instance.rle},
        }
        for number, image in enumerate(images, start=1)
        for instance in image.truth_by_class
    ]


def _predicted_entries(images: Sequence[ImageInstances], iou_type: IouType) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = []
    for number, image in enumerate(images, start=1):
        for instance in image.predictions:
            mask = {"size": [image.height, image.width], "counts": instance.rle}
            area = float(rle_masks.area(mask)) if iou_type == "segm" else instance.bbox[2] * instance.bbox[3]
            entries.append(
                {
                    "image_id": number,
                    "category_id": instance.class_id,
                    "score": instance.score,
                    "iscrowd": 0,
                    "area": area,
                    "bbox": list(instance.bbox),
                    "segmentation": mask,
                }
            )
    return entries
