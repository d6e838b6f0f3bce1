"""Objects found in overlapping windows, brought together: each once, and whole.

An object that lies inside a window is found there as a whole, and in the overlap by several windows: of these the
surest is kept. What a window's border cuts is dropped where another window saw the object whole; the rest are pieces of
objects that no window holds, and pieces that agree where their windows overlap are one object.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SAME_IOU = 0.5
"""From this IoU on two masks, of whole objects or of what windows share of two pieces, are of one object."""
_SEEN_SHARE = 0.5
"""A piece that lies by more than this share in a whole object is a part of it."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """Rows [top, bottom) and columns [left, right) of a picture."""

    top: int
    left: int
    bottom: int
    right: int

    def intersection(self, other: "Region") -> "Region | None":
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Region(top=top, left=left, bottom=bottom, right=right) if top < bottom and left < right else None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """An object as one window shows it; coordinates are those of the picture."""

    class_id: int
    score: float
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2."""
    mask: NDArray[np.bool_]
    """(h, w), no larger than what is in it, its first pixel at (top, left)."""
    top: int
    left: int
    window: Region
    cut: bool
    """Whether a border of the window, not of the picture, may have cut it."""

    @property
    def region(self) -> Region:
        rows, columns = self.mask.shape
        return Region(top=self.top, left=self.left, bottom=self.top + rows, right=self.left + columns)

    def within(self, region: Region) -> NDArray[np.bool_]:
        """The mask of a region that its own overlaps, (h, w) of that region."""
        part = np.zeros((region.bottom - region.top, region.right - region.left), np.bool_)
        both = self.region.intersection(region)
        if both is not None:
            rows, columns = (
                slice(both.top - self.top, both.bottom - self.top),
                slice(both.left - self.left, both.right - self.left),
            )
            part[
                both.top - region.top : both.bottom - region.top, both.left - region.left : both.right - region.left
            ] = self.mask[rows, columns]
        return part


def merge_pieces(pieces: Iterable[Piece]) -> list[Piece]:
    """The objects of the picture; what several windows found of one is in it once."""
    by_class: dict[int, list[Piece]] = defaultdict(list)
    for piece in sorted(pieces, key=lambda piece: -piece.score):
        by_class[piece.class_id].append(piece)
    return [merged for of_class in by_class.values() for merged in _merge_class(of_class)]


def _merge_class(pieces: Sequence[Piece]) -> list[Piece]:
    """pieces: the surest first."""
    near = _near(pieces)
    whole: dict[int, Piece] = {}
    for i, piece in enumerate(pieces):
        if not piece.cut and not any(_iou(piece, whole[j]) > _SAME_IOU for j in near[i] if j in whole):
            whole[i] = piece
    parts = {
        i: piece
        for i, piece in enumerate(pieces)
        if piece.cut
        and not any(_shared_pixels(piece, whole[j]) > _SEEN_SHARE * piece.mask.sum() for j in near[i] if j in whole)
    }
    return [*whole.values(), *_joined(parts, near)]


def _near(pieces: Sequence[Piece]) -> list[list[int]]:
    """Of each piece those of other windows whose regions overlap its own.

    What one window found twice its own suppression has judged already.
    """
    regions = [piece.region for piece in pieces]
    top, left, bottom, right = np.array([(r.top, r.left, r.bottom, r.right) for r in regions]).reshape(-1, 4).T
    numbers: dict[Region, int] = {}
    window = np.array([numbers.setdefault(piece.window, len(numbers)) for piece in pieces])
    return [
        np.flatnonzero(
            (top < bottom[i]) & (top[i] < bottom) & (left < right[i]) & (left[i] < right) & (window != window[i])
        ).tolist()
        for i in range(len(pieces))
    ]


def _joined(parts: Mapping[int, Piece], near: Sequence[Sequence[int]]) -> list[Piece]:
    """Pieces that agree in what their windows share are put together, however many windows an object spans."""
    first = {i: i for i in parts}
    for i, piece in parts.items():
        for j in near[i]:
            if j in parts and j < i and first[i] != first[j] and _is_continued(piece, parts[j]):
                old, new = first[i], first[j]
                first = {number: new if at == old else at for number, at in first.items()}
    members: dict[int, list[Piece]] = defaultdict(list)
    for i, piece in parts.items():
        members[first[i]].append(piece)
    return [_union(of_object) for of_object in members.values()]


def _is_continued(one: Piece, other: Piece) -> bool:
    shared = one.window.intersection(other.window)
    if shared is None:
        return False
    first, second = one.within(shared), other.within(shared)
    both = int((first & second).sum())
    return both > _SAME_IOU * int((first | second).sum())


def _union(pieces: Sequence[Piece]) -> Piece:
    """One object, as sure as its surest piece."""
    if len(pieces) == 1:
        return pieces[0]
    regions = [piece.region for piece in pieces]
    region = Region(
        top=min(r.top for r in regions),
        left=min(r.left for r in regions),
        bottom=max(r.bottom for r in regions),
        right=max(r.right for r in regions),
    )
    boxes = np.array([piece.box for piece in pieces])
    (x1, y1), (x2, y2) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    best = max(pieces, key=lambda piece: piece.score)
    mask = np.logical_or.reduce([piece.within(region) for piece in pieces])
    return dataclasses.replace(best, box=(x1, y1, x2, y2), mask=mask, top=region.top, left=region.left)


def _shared_pixels(one: Piece, other: Piece) -> int:
    region = one.region.intersection(other.region)
    return 0 if region is None else int((one.within(region) & other.within(region)).sum())


def _iou(one: Piece, other: Piece) -> float:
    shared = _shared_pixels(one, other)
    return shared / (int(one.mask.sum()) + int(other.mask.sum()) - shared)
