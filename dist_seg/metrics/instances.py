"""What instance metrics are made of: true and predicted objects by image, gathered from all ranks as run lengths."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

from dist_seg.distributed.collectives import gather_json

PIECE_BYTES = 16 * 1024 * 1024
"""What one collective of `gather_images` carries for a rank, at most."""

Box = tuple[float, float, float, float]
"""x, y, width, height."""


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
class ScoredImage:
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


def gather_images(own: Sequence[ScoredImage], *, piece_bytes: int = PIECE_BYTES) -> list[ScoredImage]:
    """The images of all ranks, sorted by key, on every rank. A collective, also for a rank without images.

    It goes in pieces of at most `piece_bytes` a rank, or one image where that alone is larger. No two images may have
    one key.
    """
    pieces = list(_pieces(own, piece_bytes))
    rounds = max(cast(list[int], gather_json(len(pieces))))
    images: list[ScoredImage] = []
    for number in range(rounds):
        for part in gather_json(pieces[number] if number < len(pieces) else []):
            images.extend(_from_json(row) for row in cast(list[list[object]], part))
    images.sort(key=lambda image: image.key)
    for before, after in pairwise(images):
        assert before.key != after.key, f"image {after.key} was scored twice"
    return images


def _pieces(images: Sequence[ScoredImage], piece_bytes: int) -> Iterator[list[object]]:
    piece: list[object] = []
    held = 0
    for image in images:
        row = _to_json(image)
        size = len(json.dumps(row)) + 2  # with the separator between rows
        if piece and held + size > piece_bytes:
            yield piece
            piece, held = [], 0
        piece.append(row)
        held += size
    if piece:
        yield piece


def _to_json(image: ScoredImage) -> list[object]:
    truth = [[o.class_id, o.crowd, float(o.area), [float(x) for x in o.bbox], o.rle] for o in image.truth]
    predictions = [[p.class_id, float(p.score), [float(x) for x in p.bbox], p.rle] for p in image.predictions]
    return [image.key, image.height, image.width, truth, predictions]


def _from_json(row: list[object]) -> ScoredImage:
    key, height, width, truth, predictions = cast(tuple[str, int, int, list[list[object]], list[list[object]]], row)
    return ScoredImage(
        key=key,
        height=height,
        width=width,
        truth=tuple(
            TrueInstance(
                class_id=cast(int, class_id),
                crowd=bool(crowd),
                area=cast(float, area),
                bbox=_box(bbox),
                rle=cast(str, rle),
            )
            for class_id, crowd, area, bbox, rle in truth
        ),
        predictions=tuple(
            ScoredInstance(class_id=cast(int, class_id), score=cast(float, score), bbox=_box(bbox), rle=cast(str, rle))
            for class_id, score, bbox, rle in predictions
        ),
    )


def _box(numbers: object) -> Box:
    x, y, width, height = cast(list[float], numbers)
    return x, y, width, height
