"""Images of drawn objects and predictions for the tests of instance metrics."""

import numpy as np
from faster_coco_eval.core import mask as rle_masks
from numpy.typing import NDArray

from dist_seg.metrics.instances import Box, ImageInstances, ScoredInstance, TrueInstance


def rle_of(mask: NDArray[np.bool_]) -> str:
    return str(rle_masks.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode())


def box_of(mask: NDArray[np.bool_]) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    size = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    return float(columns[0]), float(rows[0]), float(size[0]), float(size[1])


def true_instance(mask: NDArray[np.bool_], class_id: int = 0, *, crowd: bool = False) -> TrueInstance:
    return TrueInstance(class_id=class_id, crowd=crowd, area=float(mask.sum()), bbox=box_of(mask), rle=rle_of(mask))


def predicted(mask: NDArray[np.bool_], score: float, class_id: int = 0) -> ScoredInstance:
    return ScoredInstance(class_id=class_id, score=score, bbox=box_of(mask), rle=rle_of(mask))


def rectangle(top: int, left: int, height: int, width: int, size: tuple[int, int] = (32, 48)) -> NDArray[np.bool_]:
    mask = np.zeros(size, dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def ellipse(
    size: tuple[int, int], center: tuple[float, float], axes: tuple[float, float], angle: float
) -> NDArray[np.bool_]:
    y, x = np.mgrid[: size[0], : size[1]]
    y, x = y - center[0], x - center[1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside: NDArray[np.bool_] = (along / axes[0]) ** 2 + (across / axes[1]) ** 2 <= 1
    return inside


def scene(
    key: str,
    random: np.random.Generator,
    *,
    num_classes: int,
    max_objects: int = 8,
    max_predictions: int = 40,
    num_scores: int = 9,
) -> ImageInstances:
    """Objects of all sizes, some of them crowds, and predictions near them and elsewhere; few scores, so many ties."""
    size = (int(random.integers(120, 180)), int(random.integers(120, 200)))
    truth, drawn = [], []
    for _ in range(int(random.integers(0, max_objects + 1))):
        center, angle = (random.uniform(0, size[0]), random.uniform(0, size[1])), random.uniform(0, 3)
        scale, ratio = np.exp(random.uniform(np.log(4), np.log(100))), np.exp(random.normal(0, 0.2))
        axes = (scale * ratio, scale / ratio)
        class_id = int(random.integers(num_classes))
        drawn.append((class_id, center, axes, angle))
        truth.append(true_instance(ellipse(size, center, axes, angle), class_id, crowd=bool(random.random() < 0.15)))
        if random.random() < 0.1:
            truth.append(truth[-1])  # two objects that every prediction overlaps alike
    predictions = []
    fewest = 0 if random.random() < 0.2 else max_predictions // 2
    for _ in range(int(random.integers(fewest, max_predictions + 1))):
        if drawn and random.random() < 0.7:
            class_id, center, axes, angle = drawn[random.integers(len(drawn))]
            moved = (center[0] + random.normal(0, 0.1) * axes[0], center[1] + random.normal(0, 0.1) * axes[1])
            grown = (axes[0] * np.exp(random.normal(0, 0.1)), axes[1] * np.exp(random.normal(0, 0.1)))
            mask = ellipse(size, moved, grown, angle + random.normal(0, 0.1))
            class_id = class_id if random.random() < 0.9 else int(random.integers(num_classes))
        else:
            center = (random.uniform(0, size[0]), random.uniform(0, size[1]))
            mask = ellipse(size, center, (random.uniform(1, 60), random.uniform(1, 60)), 0.0)
            class_id = int(random.integers(num_classes))
        predictions.append(predicted(mask, float(random.integers(1, num_scores + 1)) / num_scores, class_id))
    return ImageInstances(key=key, height=size[0], width=size[1], truth=tuple(truth), predictions=tuple(predictions))


def scenes(num_images: int, seed: int, **options: int) -> list[ImageInstances]:
    random = np.random.default_rng(seed)
    return [scene(f"image-{i:03d}", random, **options) for i in range(num_images)]
