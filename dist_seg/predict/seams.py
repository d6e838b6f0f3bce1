"""Merges the objects found in overlapping windows, so that each appears once and whole.

An object inside a window is found whole. Where windows overlap, several may find it: the one with the highest score is
kept. A piece cut by a window's border is dropped if another window found the whole object. The remaining pieces belong
to objects larger than a window: pieces that agree where their windows overlap are joined into one object.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SAME_IOU = 0.5
"""Two masks with a higher IoU belong to one object: masks of whole objects, or of two pieces inside the area that their
windows share."""
_SEEN_SHARE = 0.5
"""A piece is part of a whole object if more than this share of its pixels is inside the object."""


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
    """(h, w), cropped to the object; its first pixel is at (top, left)."""
    top: int
    left: int
    window: Region
    cut: bool
    """Whether a border of the window may have cut it. Borders of the picture do not count."""

    @property
    def region(self) -> Region:
        rows, columns = self.mask.shape
        return Region(top=self.top, left=self.left, bottom=self.top + rows, right=self.left + columns)

    def within(self, region: Region) -> NDArray[np.bool_]:
        """The mask inside another region, with that region's (h, w)."""
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
    """The objects of the picture. An object that several windows found appears once."""
    by_class: dict[int, list[Piece]] = defaultdict(list)
    for piece in sorted(pieces, key=lambda piece: -piece.score):
        by_class[piece.class_id].append(piece)
    return [merged for of_class in by_class.values() for merged in _merge_class(of_class)]


def _merge_class(pieces: Sequence[Piece]) -> list[Piece]:
    """pieces: of one class, the highest score first."""
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
    """For each piece, the indices of overlapping pieces from other windows.

    Pieces of the same window are left out: its own non-maximum suppression has compared them already.
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
    """Joins pieces that agree inside the area that their windows share, over any number of windows."""
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
    """The object made of all pieces, with the highest of their scores."""
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
