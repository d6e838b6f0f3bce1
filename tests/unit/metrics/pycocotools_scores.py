"""The oracle for instance metrics: pycocotools on all images in one process."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dist_seg.metrics.instances import ImageInstances


def evaluated(images: Sequence[ImageInstances], num_classes: int, iou_type: str, max_detections: int) -> COCOeval:
    """The evaluation after `accumulate()`. Masks go through `loadRes` without boxes, whose area it would use."""
    ordered = sorted(images, key=lambda image: image.key)
    things = [(i, image, thing) for i, image in enumerate(ordered, 1) for thing in image.truth]
    found = [(i, image, thing) for i, image in enumerate(ordered, 1) for thing in image.predictions]
    results = []
    for i, image, thing in found:
        shape: dict[str, object] = {"segmentation": {"size": [image.height, image.width], "counts": thing.rle}}
        if iou_type == "bbox":
            shape = {"bbox": list(thing.bbox)}
        results.append({"image_id": i, "category_id": thing.class_id + 1, "score": thing.score, **shape})
    with contextlib.redirect_stdout(io.StringIO()):
        truth, predictions = COCO(), COCO()
        truth.dataset = {
            "images": [{"id": i, "height": image.height, "width": image.width} for i, image in enumerate(ordered, 1)],
            "categories": [{"id": c + 1, "name": str(c)} for c in range(num_classes)],
            "annotations": [
                {
                    "id": number,
                    "image_id": i,
                    "category_id": thing.class_id + 1,
                    "iscrowd": int(thing.crowd),
                    "area": thing.area,
                    "bbox": list(thing.bbox),
                    "segmentation": {"size": [image.height, image.width], "counts": thing.rle},
                }
                for number, (i, image, thing) in enumerate(things, 1)
            ],
        }
        truth.createIndex()
        if results:
            predictions = truth.loadRes(results)
        else:  # which loadRes refuses
            predictions.dataset = {**truth.dataset, "annotations": []}
            predictions.createIndex()
        evaluation = COCOeval(truth, predictions, iou_type)
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def summary(
    images: Sequence[ImageInstances], num_classes: int, iou_type: str, max_detections: int
) -> dict[str, object]:
    """The scores in the form of `CocoScores.document`, with class ids as names."""
    evaluation = evaluated(images, num_classes, iou_type, max_detections)
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    sizes = enumerate(["", "_small", "_medium", "_large"])
    numbers: dict[str, object] = {}
    for area, suffix in sizes:
        numbers[f"ap{suffix}"] = mean(precision[:, :, :, area, 2])
        numbers[f"ar{suffix or '_max'}"] = mean(recall[:, :, area, 2])
    numbers |= {"ap50": mean(precision[0, :, :, 0, 2]), "ap75": mean(precision[5, :, :, 0, 2])}
    numbers |= {"ar_1": mean(recall[:, :, 0, 0]), "ar_10": mean(recall[:, :, 0, 1])}
    numbers["class_ap"] = {str(c): mean(precision[:, :, c, 0, 2]) for c in range(num_classes)}
    return numbers


def mean(values: NDArray[np.float64]) -> float | None:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else None


def differences(found: object, expected: object, where: str = "") -> list[str]:
    """The entries of two documents that differ by more than 1e-9."""
    if isinstance(found, dict) and isinstance(expected, dict):
        if found.keys() != expected.keys():
            return [f"{where}: {sorted(found)} instead of {sorted(expected)}"]
        return [line for key in found for line in differences(found[key], expected[key], f"{where}/{key}")]
    if isinstance(found, float) and isinstance(expected, float) and abs(found - expected) <= 1e-9:
        return []
    return [] if found == expected else [f"{where}: {found} instead of {expected}"]
