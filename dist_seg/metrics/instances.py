"""What instance metrics are made of: true and predicted objects by image, gathered from all ranks as run lengths."""

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
"""What one collective of `gather_images` carries for a rank, at most."""

BACKGROUND = 0
IGNORED = 255
"""What `class_map` holds where no object is, and in a crowd."""

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""

_Row = tuple[str, int, int, list[tuple[int, bool, float, Box, str]], list[tuple[int, float, Box, str]]]
"""An `ImageInstances` for the way between ranks: its fields in their order."""


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
    """From 0; negative for a crowd of every class."""
    crowd: bool
    """A region of many objects, not told apart: what is found in it counts neither for nor against."""
    area: float
    """In pixels, as annotated: small, medium and large objects are told apart by it."""
    bbox: Box
    rle: str
    """COCO's compressed run lengths for the image's size."""


@dataclass(frozen=True, kw_only=True)
class ImageInstances:
    """An image's objects and what a model makes of it."""

    key: str
    height: int
    width: int
    truth: tuple[TrueInstance, ...]
    predictions: tuple[ScoredInstance, ...]
    """Of equal scores the earlier is taken for the better one."""

    @property
    def truth_by_class(self) -> list[TrueInstance]:
        """The truth, with a crowd of every class as one of each class that was predicted; of others it says nothing."""
        predicted = sorted({found.class_id for found in self.predictions})
        return [
            replace(thing, class_id=class_id)
            for thing in self.truth
            for class_id in (predicted if thing.class_id < 0 else [thing.class_id])
        ]


def class_map(
    image: ImageInstances, which: Literal["truth", "predictions"], num_classes: int, score_threshold: float = 0.5
) -> NDArray[np.uint8]:
    """Class ids (height, width): 0 is the background, class c of the instances is c + 1; 255, in the truth, crowds.

    Where predictions overlap, the one with the highest score is on top (of equals the first); those with a score below
    the threshold are left out. Where true objects overlap, the one with the smallest mask is on top.
    """
    assert num_classes < IGNORED
    if which == "truth":
        # Not by the area as annotated, which may be anything.
        pixels = boxes_and_areas([thing.rle for thing in image.truth], image.height, image.width)[1]
        ordered = [image.truth[index] for index in np.argsort(-pixels, kind="stable")]
        layers = [(IGNORED if thing.crowd else thing.class_id + 1, thing.rle) for thing in ordered]
    else:
        kept = [thing for thing in image.predictions if thing.score >= score_threshold]
        best_first = sorted(kept, key=lambda thing: -thing.score)
        layers = [(thing.class_id + 1, thing.rle) for thing in reversed(best_first)]
    painted = np.full((image.height, image.width), BACKGROUND, dtype=np.uint8, order="F")  # as decoded masks lie
    for value, rle in layers:
        assert 0 < value <= num_classes or value == IGNORED
        np.copyto(painted, np.uint8(value), where=decode_mask(rle, image.height, image.width))
    return np.ascontiguousarray(painted)


def gather_images(own: Sequence[ImageInstances], *, piece_bytes: int = PIECE_BYTES) -> list[ImageInstances]:
    """The images of all ranks, sorted by key, on every rank. A collective, also for a rank without images.

    It goes in pieces of at most `piece_bytes` a rank, or one image where that alone is larger. No two images may have
    one key.
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
    """Plain floats: a box may hold those of NumPy, which json does not write."""
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
