"""The annotated and the predicted objects of an image, as run lengths.

They are gathered from all ranks for COCO's metrics, and painted into one map of classes for the IoU of classes.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_seg.distributed.collectives import gather_json
from dist_seg.masks.rle import boxes_and_areas, decode_mask
from dist_seg.runtime.documents import convert

PIECE_BYTES = 16 * 1024 * 1024
"""Most bytes that one collective of `gather_images` carries for a rank."""

BACKGROUND = 0
IGNORED = 255
"""The values of `class_map` without an object and in a crowd."""

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""

_Row = tuple[str, int, int, list[tuple[int, bool, float, Box, str]], list[tuple[int, float, Box, str]]]
"""The fields of an `ImageInstances` in their order, to be sent between ranks."""


@dataclass(frozen=True, kw_only=True)
class ScoredInstance:
    """A predicted object."""

    class_id: int
    """From 0."""
    score: float
    bbox: Box
    rle: str
    """COCO's compressed run lengths for the image's size."""


@dataclass(frozen=True, kw_only=True)
class TrueInstance:
    """An annotated object."""

    class_id: int
    """From 0; negative for a crowd that stands for every class."""
    crowd: bool
    """A region of many objects that are not separated: detections in it count as neither right nor wrong."""
    area: float
    """In pixels, as annotated. It decides whether the object is small, medium or large."""
    bbox: Box
    rle: str
    """COCO's compressed run lengths for the image's size."""


@dataclass(frozen=True, kw_only=True)
class ImageInstances:
    """An image's annotated objects, and those that a model predicts."""

    key: str
    height: int
    width: int
    truth: tuple[TrueInstance, ...]
    predictions: tuple[ScoredInstance, ...]
    """If scores are equal, the earlier prediction ranks higher."""

    @property
    def truth_by_class(self) -> list[TrueInstance]:
        """The truth, with a crowd of every class replaced by one crowd for each predicted class.

        For the other classes a crowd makes no difference.
        """
        predicted = sorted({found.class_id for found in self.predictions})
        return [
            replace(instance, class_id=class_id)
            for instance in self.truth
            for class_id in (predicted if instance.class_id < 0 else [instance.class_id])
        ]


def class_map(
    image: ImageInstances, which: Literal["truth", "predictions"], num_classes: int, score_threshold: float = 0.5
) -> NDArray[np.uint8]:
    """The instances painted into one map (height, width): 0 is the background, c + 1 class c, and 255 a crowd.

    Predictions below the threshold are left out. If predictions overlap, the one with the highest score is on top (the
    first of equals); if annotated objects overlap, the one with the smallest mask.
    """
    assert num_classes < IGNORED
    if which == "truth":
        # The annotated area may be wrong, so the pixels are counted.
        pixels = boxes_and_areas([instance.rle for instance in image.truth], image.height, image.width)[1]
        ordered = [image.truth[index] for index in np.argsort(-pixels, kind="stable")]
        layers = [(IGNORED if instance.crowd else instance.class_id + 1, instance.rle) for instance in ordered]
    else:
        kept = [instance for instance in image.predictions if instance.score >= score_threshold]
        best_first = sorted(kept, key=lambda instance: -instance.score)
        layers = [(instance.class_id + 1, instance.rle) for instance in reversed(best_first)]
    painted = np.full((image.height, image.width), BACKGROUND, dtype=np.uint8, order="F")  # the layout of decoded masks
    for value, rle in layers:
        assert 0 < value <= num_classes or value == IGNORED
        np.copyto(painted, np.uint8(value), where=decode_mask(rle, image.height, image.width))
    return np.ascontiguousarray(painted)


def gather_images(own: Sequence[ImageInstances], *, piece_bytes: int = PIECE_BYTES) -> list[ImageInstances]:
    """The images of all ranks, sorted by key, on every rank. A collective, which a rank without images joins too.

    Each collective carries at most `piece_bytes` per rank, or one image if that is larger. Keys must be unique.
    """
    pieces = list(_pieces(own, piece_bytes))
    rounds = max(convert(gather_json(len(pieces)), list[int], "pieces of images"))
    images: list[ImageInstances] = []
    for number in range(rounds):
        for part in gather_json(pieces[number] if number < len(pieces) else []):
            images.extend(_from_row(row) for row in convert(part, list[_Row], "gathered images"))
    images.sort(key=lambda image: image.key)
    for before, after in pairwise(images):
        assert before.key != after.key, f"image {after.key} was scored twice"
    return images


def _pieces(images: Sequence[ImageInstances], piece_bytes: int) -> Iterator[list[_Row]]:
    piece: list[_Row] = []
    held = 0
    for image in images:
        row = _to_row(image)
        size = len(json.dumps(row)) + 2  # with the separator between rows
        if piece and held + size > piece_bytes:
            yield piece
            piece, held = [], 0
        piece.append(row)
        held += size
    if piece:
        yield piece


def _to_row(image: ImageInstances) -> _Row:
    truth = [(o.class_id, o.crowd, float(o.area), _as_floats(o.bbox), o.rle) for o in image.truth]
    predictions = [(p.class_id, float(p.score), _as_floats(p.bbox), p.rle) for p in image.predictions]
    return image.key, image.height, image.width, truth, predictions


def _as_floats(box: Box) -> Box:
    """Plain floats, because json does not write NumPy's float32."""
    x, y, width, height = box
    return float(x), float(y), float(width), float(height)


def _from_row(row: _Row) -> ImageInstances:
    key, height, width, truth, predictions = row
    return ImageInstances(
        key=key,
        height=height,
        width=width,
        truth=tuple(
            TrueInstance(class_id=class_id, crowd=crowd, area=area, bbox=bbox, rle=rle)
            for class_id, crowd, area, bbox, rle in truth
        ),
        predictions=tuple(
            ScoredInstance(class_id=class_id, score=score, bbox=bbox, rle=rle)
            for class_id, score, bbox, rle in predictions
        ),
    )
