"""Objects of overlapping windows: each once, and whole."""

import numpy as np
import pytest

from dist_seg.predict.seams import Piece, Region, merge_pieces

LEFT, RIGHT = Region(top=0, left=0, bottom=40, right=60), Region(top=0, left=40, bottom=40, right=100)
FAR = Region(top=0, left=80, bottom=40, right=140)


def piece(
    window: Region, x1: int, x2: int, *, score: float = 0.9, cut: bool = False, class_id: int = 0, rows: int = 10
) -> Piece:
    """A rectangle from row 5 on."""
    return Piece(
        class_id=class_id,
        score=score,
        box=(float(x1), 5.0, float(x2), 5.0 + rows),
        mask=np.ones((rows, x2 - x1), np.bool_),
        top=5,
        left=x1,
        window=window,
        cut=cut,
    )


def spans(pieces: list[Piece]) -> list[tuple[int, int, float]]:
    return sorted((p.left, p.left + p.mask.shape[1], p.score) for p in pieces)


def test_what_two_windows_found_whole_is_the_surer_one() -> None:
    merged = merge_pieces([piece(LEFT, 42, 56, score=0.7), piece(RIGHT, 43, 57, score=0.8)])
    assert spans(merged) == [(43, 57, 0.8)]


def test_neighbours_that_hardly_overlap_stay_two() -> None:
    merged = merge_pieces([piece(LEFT, 40, 50), piece(RIGHT, 49, 59)])
    assert len(merged) == 2


def test_what_one_window_found_twice_is_left_to_its_own_suppression() -> None:
    assert len(merge_pieces([piece(LEFT, 10, 20), piece(LEFT, 10, 20, score=0.5)])) == 2


def test_a_piece_of_what_another_window_saw_whole_is_dropped() -> None:
    merged = merge_pieces([piece(LEFT, 50, 60, cut=True, score=0.99), piece(RIGHT, 50, 75, score=0.6)])
    assert spans(merged) == [(50, 75, 0.6)]


def test_pieces_that_agree_in_the_overlap_become_one() -> None:
    [merged] = merge_pieces([piece(LEFT, 20, 60, cut=True, score=0.6), piece(RIGHT, 40, 90, cut=True, score=0.8)])
    assert merged.box == (20.0, 5.0, 90.0, 15.0)
    assert (merged.top, merged.left, merged.mask.shape, merged.score) == (5, 20, (10, 70), 0.8)
    assert merged.mask.all()


def test_pieces_over_three_windows_become_one() -> None:
    parts = [piece(LEFT, 20, 60, cut=True), piece(RIGHT, 40, 100, cut=True), piece(FAR, 80, 120, cut=True)]
    assert spans(merge_pieces(parts)) == [(20, 120, 0.9)]


def test_pieces_that_differ_in_the_overlap_stay_apart() -> None:
    merged = merge_pieces([piece(LEFT, 57, 60, cut=True), piece(RIGHT, 40, 90, cut=True)])
    assert len(merged) == 2


def test_a_piece_that_nobody_else_saw_is_kept() -> None:
    assert spans(merge_pieces([piece(LEFT, 30, 60, cut=True)])) == [(30, 60, 0.9)]


@pytest.mark.parametrize("cut", [True, False])
def test_objects_of_different_classes_have_nothing_to_do_with_each_other(cut: bool) -> None:
    assert len(merge_pieces([piece(LEFT, 40, 60, cut=cut), piece(RIGHT, 40, 60, cut=cut, class_id=1)])) == 2
