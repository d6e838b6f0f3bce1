"""COCO's average precision and recall of boxes and masks (Lin et al. 2014), with the numbers of pycocotools.

In arrays T is the IoU thresholds, R the recall levels, K the classes, A the size ranges (all, small, medium, large), M
the limits on the number of detections; D detections and G objects of one class in one image.
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
"""IoU (D, G) by image key and class id: predictions by falling score, objects in their order; for a crowd the part of
the prediction that lies in it. Images without a prediction or without an object of the class are left out."""

_log = logging.getLogger(__name__)

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_IOU_50, _IOU_75 = 0, 5


@dataclass(frozen=True, kw_only=True)
class CocoScores:
    """COCO's numbers for boxes or for masks; NaN for means over nothing, as where no object has that size.

    Means are taken over the classes that the truth has, and over IoU thresholds 0.50, 0.55 … 0.95 where none is named.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    """Of objects up to 32² pixels; medium: up to 96²; large: above."""
    ap_medium: float
    ap_large: float
    ar_1: float
    """Recall with one detection an image and class; `ar_10`: ten; `ar_max`: as many as are allowed."""
    ar_10: float
    ar_max: float
    ar_small: float
    ar_medium: float
    ar_large: float
    class_ap: tuple[float | None, ...]
    """None for a class without objects in the truth."""

    def document(self, class_names: Sequence[str]) -> dict[str, object]:
        """JSON-ready: None for NaN, the classes by name."""
        numbers = {name: value for name, value in asdict(self).items() if name != "class_ap"}
        finite = {name: None if math.isnan(value) else value for name, value in numbers.items()}
        return {**finite, "class_ap": dict(zip(class_names, self.class_ap, strict=True))}


@dataclass(frozen=True, kw_only=True)
class InstanceScores:
    """Scores of a set of images."""

    bbox: CocoScores
    segm: CocoScores
    class_names: tuple[str, ...]
    max_detections: int
    mask_overlaps: Overlaps = field(repr=False, compare=False)
    """For the bootstrap interval."""

    def document(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "max_detections": self.max_detections,
            "bbox": self.bbox.document(self.class_names),
            "segm": self.segm.document(self.class_names),
        }


def score_images(
    images: Sequence[ImageInstances], class_names: Sequence[str], *, max_detections: int
) -> InstanceScores:
    """COCO's numbers for boxes and masks, whatever the order of the images.

    max_detections: how many detections of a class count in an image, those with the highest scores. Small, medium and
    large detections are told apart by the area of what is scored: boxes by their own, masks by their pixels.
    """
    assert max_detections > 0
    ordered = sorted(images, key=lambda image: image.key)  # ties between images are broken by their order
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
    # The evaluator's own summary is left aside: it prints, and its layout depends on the limits.
    limits = sorted({1, 10, max_detections})
    evaluator = COCOeval_faster(
        _data_set(images, num_classes, _true_entries(images)),
        _data_set(images, num_classes, _predicted_entries(images, iou_type)),
        iou_type,
        # It would tell the user about every evaluation's parts.
        print_function=_log.debug,
    )
    evaluator.params.maxDets = limits
    evaluator.evaluate()
    evaluator.accumulate()
    precision_TRKAM: NDArray[np.float64] = evaluator.eval["precision"]
    recall_TKAM: NDArray[np.float64] = evaluator.eval["recall"]
    most = limits.index(max_detections)
    precision, recall = precision_TRKAM[..., most], recall_TKAM[..., most]
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
    """Of what is defined; the evaluator writes -1 where there is nothing to find."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _data_set(images: Sequence[ImageInstances], num_classes: int, entries: list[dict[str, object]]) -> COCO:
    for number, entry in enumerate(entries, start=1):  # 0 would mean "not matched" to the evaluator
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
            "category_id": thing.class_id,
            "iscrowd": int(thing.crowd),
            "area": thing.area,
            "bbox": list(thing.bbox),
            "segmentation": {"size": [image.height, image.width], "counts": thing.rle},
        }
        for number, image in enumerate(images, start=1)
        for thing in image.truth_by_class
    ]


def _predicted_entries(images: Sequence[ImageInstances], iou_type: IouType) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = []
    for number, image in enumerate(images, start=1):
        for thing in image.predictions:
            mask = {"size": [image.height, image.width], "counts": thing.rle}
            area = float(rle_masks.area(mask)) if iou_type == "segm" else thing.bbox[2] * thing.bbox[3]
            entries.append(
                {
                    "image_id": number,
                    "category_id": thing.class_id,
                    "score": thing.score,
                    "iscrowd": 0,
                    "area": area,
                    "bbox": list(thing.bbox),
                    "segmentation": mask,
                }
            )
    return entries
