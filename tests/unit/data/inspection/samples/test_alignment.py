"""Fits of masks to their images."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dist_seg.data.codecs.encoded import UNKNOWN
from dist_seg.data.inspection.samples.alignment import (
    REACH,
    TURN_NAMES,
    TURNS,
    edges_of,
    measure_fit,
    outlines_of,
    peak,
    shrunk_layers,
)

from ..scenes import Scene, found, scene, trouble_of

_SIZE = (160, 200)


def _blocks(height: int = 160, width: int = 200, seed: int = 0) -> Scene:
    """Rectangles of one colour each, and their ids."""
    rng = np.random.default_rng(seed)
    image, mask = np.full((height, width, 3), 100, np.uint8), np.zeros((height, width), np.uint8)
    for number in range(1, 6):
        top, left = int(rng.integers(0, height - 60)), int(rng.integers(0, width - 60))
        part = np.s_[top : top + int(rng.integers(20, 60)), left : left + int(rng.integers(20, 60))]
        image[part], mask[part] = rng.integers(0, 256, 3), number
    return image, mask


def _layers(mask: NDArray[np.uint8]) -> NDArray[np.int16]:
    return mask.astype(np.int16)[None]


def _moved(mask: NDArray[np.uint8], down: int, right: int, fill: int = 255) -> NDArray[np.uint8]:
    height, width = mask.shape
    moved = np.full_like(mask, fill)
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = mask[
        max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return moved


@settings(max_examples=25, deadline=None)
@given(down=st.integers(-20, 20), right=st.integers(-20, 20), seed=st.integers(0, 3))
def test_the_shift_of_a_mask_is_found(down: int, right: int, seed: int) -> None:
    image, mask = _blocks(seed=seed)
    fit = measure_fit(image, _layers(_moved(mask, down, right, 0)))
    assert fit is not None
    assert fit.shift == pytest.approx((down, right), abs=1)
    assert peak(fit.surface) == pytest.approx((-down, -right), abs=1)


def test_the_correlation_is_that_of_a_loop() -> None:
    """The fit up to a factor and a constant, which standardising removes."""
    image, mask = _blocks(72, 80)
    fit = measure_fit(image, _layers(mask))
    assert fit is not None

    edges, outlines = edges_of(image, (72, 80)), outlines_of(_layers(mask))
    shifts = [(0, 0), (3, -5), (-24, 24), (10, 0), (-1, -24)]
    expected = []
    for down, right in shifts:
        total = 0.0
        for edge, outline in ((edges.x, outlines.x), (edges.y, outlines.y)):
            for row, column in np.argwhere(outline):
                y, x = row + down, column + right
                if 0 <= y < 72 and 0 <= x < 80:
                    total += float(edge[y, x])
        expected.append(total)
    given_ = [float(fit.surface[REACH + down, REACH + right]) for down, right in shifts]
    slope = (given_[0] - given_[2]) / (expected[0] - expected[2])
    assert [slope * (e - expected[0]) for e in expected] == pytest.approx([g - given_[0] for g in given_], abs=1e-3)


def test_shifts_are_in_the_image_s_pixels_where_it_is_shrunk() -> None:
    image, mask = _blocks(400, 500)
    image, mask = image.repeat(3, axis=0).repeat(3, axis=1), mask.repeat(3, axis=0).repeat(3, axis=1)
    fit = measure_fit(image, _layers(_moved(mask, 30, -24, 0)))
    assert fit is not None and fit.shift == pytest.approx((30, -24), abs=3)


@pytest.mark.parametrize("turn", TURN_NAMES)
def test_how_a_mask_was_turned_is_named(turn: str) -> None:
    side = 160
    for seed in range(3):
        image, mask = _blocks(side, side, seed)
        fit = measure_fit(image, np.ascontiguousarray(TURNS[turn](_layers(mask))))
        assert fit is not None
        assert fit.turn >= 0 and TURN_NAMES[fit.turn] == turn and fit.turned > fit.fit + 5


def test_between_known_and_unknown_there_is_no_outline() -> None:
    layers = np.array([[[0, 0, 1], [0, UNKNOWN, 1], [2, 2, UNKNOWN]]], np.int16)
    outlines = outlines_of(layers)
    assert outlines.x.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert outlines.y.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_an_outline_in_any_layer_counts_once() -> None:
    layer = np.array([[0, 1, 1]], np.int16)
    assert outlines_of(np.stack([layer, layer, layer * 0])).x.tolist() == [[0, 1, 0]]


def test_shrunk_layers_hold_no_new_ids() -> None:
    layers = np.random.default_rng(0).integers(0, 4, (2, 50, 70)).astype(np.int16) * 7
    shrunk = shrunk_layers(layers, (20, 30))
    assert shrunk.shape == (2, 20, 30) and set(np.unique(shrunk)) <= {0, 7, 14, 21}


@pytest.mark.parametrize("case", ["small", "no outline", "no contrast"])
def test_where_nothing_can_be_told_nothing_is(case: str) -> None:
    image, mask = _blocks()
    if case == "small":
        image, mask = image[:48], mask[:48]
    if case == "no outline":
        mask = np.zeros_like(mask)
    if case == "no contrast":
        image = np.full_like(image, 77)
    assert measure_fit(image, _layers(mask)) is None


def _scenes(faulty: Mapping[int, Scene], count: int = 14) -> dict[str, Scene]:
    return {f"train/photo_{chr(97 + n)}": faulty.get(n) or scene(n, *_SIZE) for n in range(count)}


def test_good_masks_are_not_named(tmp_path: Path) -> None:
    assert not {"shifted", "shifted_split", "turned", "misfit"} & found(trouble_of(tmp_path, _scenes({}))).keys()


def test_faulty_masks_are_named_with_their_fault(tmp_path: Path) -> None:
    image, mask = scene(2, *_SIZE)
    faulty = {
        2: (image, _moved(mask, 0, 9)),
        5: (scene(5, *_SIZE)[0], scene(5, *_SIZE)[1][:, ::-1]),
        8: (scene(8, *_SIZE)[0], scene(30, *_SIZE)[1]),
    }
    trouble = trouble_of(tmp_path, _scenes(faulty))
    kinds = found(trouble)
    assert kinds["shifted"] == [("train/photo_c",)]
    assert kinds["turned"] == [("train/photo_f",)]
    assert kinds["misfit"] == [("train/photo_i",)]
    remarks = {finding.kind: finding.examples[0].what for finding in trouble.findings if finding.examples}
    assert remarks["turned"] == "mirrored"
    assert remarks["shifted"] in ("too far right by 9 px", "too far right by 8 px")


def test_masks_that_were_exchanged_are_told_of_each_other(tmp_path: Path) -> None:
    first, second, third = scene(3, *_SIZE), scene(8, *_SIZE), scene(11, *_SIZE)
    faulty = {3: (first[0], second[1]), 8: (second[0], first[1]), 11: (third[0], scene(43, *_SIZE)[1])}
    (finding,) = [f for f in trouble_of(tmp_path, _scenes(faulty)).findings if f.kind == "misfit"]
    remarks = {example.places[0].key: example.what for example in finding.examples}
    assert "the mask of photo_i would fit" in remarks["photo_d"]
    assert "the mask of photo_d would fit" in remarks["photo_i"]
    assert "would fit" not in remarks["photo_l"]


def test_a_shift_of_all_masks_is_one_finding(tmp_path: Path) -> None:
    scenes = {name: (image, _moved(mask, -6, 4)) for name, (image, mask) in _scenes({}).items()}
    trouble = trouble_of(tmp_path, scenes)
    (finding,) = [finding for finding in trouble.findings if finding.kind == "shifted_split"]
    assert finding.what == "masks of train as a whole lie too far right by 4 px and up by 6 px on their images"
    assert finding.count == 14 and not {"shifted", "misfit"} & found(trouble).keys()
