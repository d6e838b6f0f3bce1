"""Copies of images, found by hashes and confirmed by pixels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dist_seg.data.inspection.duplicates.candidates import MAX_DISTANCE, find_candidates
from dist_seg.data.inspection.duplicates.compare import similarity
from dist_seg.data.inspection.duplicates.find import MIN_COPY
from dist_seg.data.inspection.duplicates.sequences import find_sequences, frame_number
from dist_seg.data.inspection.samples.hashes import fingerprint

from ..scenes import Scene, cropped, found, grey, jpeg, scaled, scene, trouble_of

Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

COPIES: dict[str, Change] = {
    "the same pixels": lambda image: image,
    "encoded anew": lambda image: jpeg(image, 80),
    "scaled": lambda image: scaled(image, 0.9),
    "cropped": lambda image: cropped(image, 0.05),
    "cropped at a corner": lambda image: image[5:, 7:],
    "mirrored": lambda image: image[:, ::-1],
    "mirrored and cropped": lambda image: cropped(image[:, ::-1], 0.03),
}


def _distance(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> int:
    return int(np.bitwise_count(first ^ second).sum())


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_near_by_hash_and_confirmed_by_its_pixels(change: str) -> None:
    for number in range(4):
        image, _ = scene(number)
        copy = COPIES[change](image)
        one, other = fingerprint(grey(image)), fingerprint(grey(copy))
        thumbnail = one.thumbnail
        if "mirrored" in change:
            assert _distance(one.mirrored, other.words) <= MAX_DISTANCE
            thumbnail = thumbnail[:, ::-1]
        else:
            assert _distance(one.words, other.words) <= MAX_DISTANCE
        assert similarity(thumbnail, other.thumbnail) >= MIN_COPY


def test_different_images_are_not_alike() -> None:
    thumbnails = [fingerprint(grey(scene(number)[0])).thumbnail for number in range(12)]
    pairs = [(a, b) for i, a in enumerate(thumbnails) for b in thumbnails[:i]]
    assert max(similarity(a, b) for a, b in pairs) < MIN_COPY - 0.1


def test_similarity_is_symmetric_and_1_for_the_same() -> None:
    first, second = (fingerprint(grey(scene(number)[0])).thumbnail for number in (0, 1))
    assert similarity(first, first) == pytest.approx(1, abs=1e-4)
    assert similarity(first, second) == pytest.approx(similarity(second, first), abs=1e-5)


class TestCandidates:
    @staticmethod
    def _near(words: NDArray[np.uint64], bits: int, rng: np.random.Generator) -> NDArray[np.uint64]:
        """The hash with so many bits changed, spread over its words."""
        flat = np.unpackbits(words.view(np.uint8))
        flat[rng.permutation(256)[:bits]] ^= 1
        return np.packbits(flat).view(np.uint64)

    def test_those_found_are_those_of_a_search_in_plain_python(self) -> None:
        rng = np.random.default_rng(0)
        words = rng.integers(0, 2**64, (60, 4), np.uint64)
        for row, bits in enumerate(range(20, 70, 5)):
            words[row + 30] = self._near(words[row], bits, rng)
        mirrored = rng.integers(0, 2**64, (60, 4), np.uint64)
        mirrored[7] = self._near(words[50], 12, rng)
        none = np.full(60, -1)
        found = {
            (c.first, c.second, c.mirrored, c.distance)
            for c in find_candidates(words, mirrored, np.zeros(60, int), none, threads=2)
        }
        expected = set()
        for row in range(60):
            for other in range(60):
                for flipped, own in ((False, words[row]), (True, mirrored[row])):
                    distance, first = _distance(own, words[other]), int(np.bitwise_count(own[1] ^ words[other][1]))
                    if row != other and distance <= 60 and first <= 22:
                        expected.add((min(row, other), max(row, other), flipped, distance))
        assert found == expected and len(expected) >= 8

    def test_of_many_that_are_alike_the_nearest_are_kept(self) -> None:
        rng = np.random.default_rng(1)
        one = rng.integers(0, 2**64, (1, 4), np.uint64)
        words = np.concatenate([one, *(self._near(one[0], bits, rng)[None] for bits in range(1, 200))])
        split = np.repeat([0, 1], 100)
        found = find_candidates(words, ~words, split, np.full(200, -1))
        assert len(found) <= 200 * 2 * 3
        assert {(c.first, c.second) for c in found} >= {(0, 1), (0, 2), (0, 3)}

    def test_no_images_have_no_pairs(self) -> None:
        empty = np.zeros((0, 4), np.uint64)
        assert find_candidates(empty, empty, np.zeros(0, int), np.zeros(0, int)) == []


class TestSequences:
    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            ("0006R0_f00930", ("0006R0_f", 930)),
            ("0001TP_008550", ("0001TP_", 8550)),
            ("000123", ("", 123)),
            ("cat", None),
            ("12_left", None),
            ("video/٣", None),
        ],
    )
    def test_a_key_ends_in_a_frame_number(self, key: str, expected: tuple[str, int] | None) -> None:
        assert frame_number(key) == expected

    def test_pictures_that_are_only_numbered_are_no_video(self) -> None:
        thumbnails = np.stack([fingerprint(grey(scene(number)[0])).thumbnail for number in range(8)])
        assert find_sequences([f"img_{i}" for i in range(8)], thumbnails).tolist() == [-1] * 8

    def test_pictures_that_follow_each_other_are(self) -> None:
        image, _ = scene(0, 96, 160)
        frames = [fingerprint(grey(image[:, 2 * i : 120 + 2 * i])).thumbnail for i in range(6)]
        others = [fingerprint(grey(scene(number)[0])).thumbnail for number in range(1, 4)]
        keys = [*(f"b{number}" for number in (10, 9, 8)), *(f"drive_{i:03d}" for i in range(6))]
        assert find_sequences(keys, np.stack([*others, *frames])).tolist() == [-1] * 3 + [0] * 6


def _blank(image: NDArray[np.uint8]) -> Scene:
    """A scene with a mask that is unrelated to the image."""
    return image, np.zeros(image.shape[:2], np.uint8)


def test_copies_across_splits_are_errors_and_each_is_named_with_its_original(tmp_path: Path) -> None:
    scenes = {f"train/photo_{chr(97 + number)}": scene(number) for number in range(10)}
    originals = dict(zip(COPIES, scenes, strict=False))
    names = {change: f"val/{change.replace(' ', '_')}" for change in COPIES}
    for change, original in originals.items():
        scenes[names[change]] = _blank(COPIES[change](scenes[original][0]))
    trouble = trouble_of(tmp_path, scenes)
    kinds = found(trouble)
    pairs = {(original, names[change]) for change, original in originals.items()}
    exact = (originals["the same pixels"], names["the same pixels"])
    assert kinds["same_pixels_across"] == [exact]
    assert set(kinds["copies_across"]) == pairs - {exact}
    assert "copies_within" not in kinds
    assert {finding.severity.name for finding in trouble.findings if "across" in finding.kind} == {"ERROR"}
    remarks = {str(e.places[1]): e.what for f in trouble.findings if f.kind == "copies_across" for e in f.examples}
    assert remarks["val/mirrored"].startswith("mirrored, ") and remarks["val/scaled"].startswith("correlation ")


def test_copies_inside_a_split_are_a_note(tmp_path: Path) -> None:
    scenes = {f"train/{name}": scene(n) for n, name in enumerate("abcd")}
    scenes["train/e"] = scenes["train/a"]
    scenes["train/f"] = (jpeg(scenes["train/b"][0], 80), scenes["train/b"][1])
    trouble = trouble_of(tmp_path, scenes)
    notes = {finding.kind: finding for finding in trouble.findings}
    assert notes["same_pixels_within"].severity.name == notes["copies_within"].severity.name == "NOTE"
    assert found(trouble)["same_pixels_within"] == [("train/a", "train/e")]
    assert found(trouble)["copies_within"] == [("train/b", "train/f")]


def test_frames_of_one_sequence_are_summed_up_as_such(tmp_path: Path) -> None:
    image, mask = scene(0, 96, 200)
    frames = [(image[:, 2 * i : 128 + 2 * i], mask[:, 2 * i : 128 + 2 * i]) for i in range(12)]
    scenes = {f"{'val/val__' if i % 3 == 0 else 'train/train__'}drive_{i:04d}": frame for i, frame in enumerate(frames)}
    scenes |= {f"train/other_{chr(97 + n)}": scene(n) for n in range(1, 5)}
    kinds = {finding.kind: finding for finding in trouble_of(tmp_path, scenes).findings}
    assert kinds["frames_across"].severity.name == "WARNING" and kinds["frames_within"].severity.name == "NOTE"
    assert not any(kind.startswith("copies") for kind in kinds)


def test_a_copy_of_a_frame_is_named_once(tmp_path: Path) -> None:
    image, mask = scene(0, 96, 160)
    scenes = {f"val/drive_{i}": (image[:, i : 128 + i], mask[:, i : 128 + i]) for i in range(8)}
    scenes["train/new_name"] = _blank(scaled(scenes["val/drive_4"][0], 0.9))
    scenes |= {f"train/other_{chr(97 + n)}": scene(n) for n in range(1, 5)}
    assert found(trouble_of(tmp_path, scenes))["copies_across"] == [("train/new_name", "val/drive_4")]


def test_images_of_one_colour_are_no_copies_of_each_other(tmp_path: Path) -> None:
    mask = scene(0)[1]
    scenes = {f"train/{value}": (np.full((96, 128, 3), value, np.uint8), mask) for value in (10, 90, 200)}
    kinds = found(trouble_of(tmp_path, scenes))
    assert not any(kind.startswith(("copies", "same")) for kind in kinds)
    assert len(kinds["constant"]) == 3
