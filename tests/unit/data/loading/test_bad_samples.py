"""Damaged samples are replaced in training, left out in evaluation and named in both, alike by both loaders."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.fetch import MAX_REPLACEMENTS
from dist_seg.data.shards.writer import EncodedMembers
from dist_seg.errors import DataError
from tests.loader_cases import (
    PackedData,
    assert_same,
    config,
    encode,
    evaluate,
    scene,
    scene_sample,
    train,
    with_pixels,
    write_dataset,
)

BAD = ("half_jpeg", "garbage", "other_size", "broken_pixels", "wrong_checksum")
UNITS = [(step, lane) for step in range(12) for lane in range(2)]
"""Four epochs of 6 steps of 4 samples, 24 in all."""


@pytest.fixture(params=["torch", "dali"])
def loader(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali")
    return str(request.param)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    """24 samples, 5 of which are bad, each in a different way."""
    folder = tmp_path_factory.mktemp("damaged")
    good = [scene_sample(i, form="png" if i % 3 else "jpeg420") for i in range(19)]
    data = write_dataset(folder, [*good, *(_damaged_sample(kind) for kind in BAD)])
    _flip_byte_of(folder, "wrong_checksum")
    return data


def _damaged_sample(kind: str) -> EncodedMembers:
    sample = replace(scene_sample(100 + BAD.index(kind)), key=kind)
    match kind:
        case "half_jpeg":
            return replace(sample, image=sample.image[: len(sample.image) // 2])
        case "garbage":
            return replace(sample, image=np.random.default_rng(0).bytes(4000))
        case "other_size":
            return replace(sample, target=encode(scene(0, 120, 149)[1], "PNG"))
        case "broken_pixels":  # all checksums are right, but the contents are not compressed pixels
            return replace(sample, target=with_pixels(sample.target, b"\x78\x9c" + bytes(range(200))))
    return sample


def _flip_byte_of(folder: Path, key: str) -> None:
    for tar in folder.glob("*.tar"):
        data = bytearray(tar.read_bytes())
        if (start := data.find(f"{key}.jpg".encode())) >= 0:
            data[start + 512 + 1000] ^= 1
            tar.write_bytes(data)


def _named(batches: list[Batch]) -> set[str]:
    return {bad.key for batch in batches for bad in batch.bad}


class TestTraining:
    def test_every_bad_sample_is_replaced_and_named(self, damaged: PackedData, loader: str) -> None:
        batches = train(damaged, config(loader=loader), UNITS[:12], micro_batch=2)
        assert all(len(batch.keys) == 2 for batch in batches)
        assert not {key for batch in batches for key in batch.keys} & set(BAD)
        assert _named(batches) == set(BAD)

    def test_reason_and_shard_are_given(self, damaged: PackedData, loader: str) -> None:
        batches = train(damaged, config(loader=loader), UNITS[:12], micro_batch=2)
        reasons = {bad.key: f"{bad.shard}: {bad.reason}" for batch in batches for bad in batch.bad}
        assert "cut off" in reasons["half_jpeg"]
        assert "neither a JPEG nor a PNG" in reasons["garbage"]
        assert "mask: 149x120 pixels, the image has 150x120" in reasons["other_size"]
        assert reasons["broken_pixels"].startswith("train-000004.tar: mask: ")
        assert "checksum is wrong" in reasons["wrong_checksum"]

    def test_both_loaders_take_the_same_replacements(self, damaged: PackedData) -> None:
        pytest.importorskip("nvidia.dali")
        reference = train(damaged, config(), UNITS, micro_batch=2)
        assert_same(reference, train(damaged, config(loader="dali"), UNITS, micro_batch=2), config())

    def test_replacements_do_not_depend_on_what_came_before(self, damaged: PackedData, loader: str) -> None:
        whole = train(damaged, config(loader=loader), UNITS, micro_batch=2)
        for start in (1, 7, 16):
            resumed = train(damaged, config(loader=loader), UNITS[start:], micro_batch=2)
            assert [(b.keys, b.digest, b.bad) for b in whole[start:]] == [(b.keys, b.digest, b.bad) for b in resumed]

    def test_the_batches_around_a_bad_one_are_untouched(self, damaged: PackedData, loader: str) -> None:
        prefetched = train(damaged, config(loader=loader, prefetch=4), UNITS[:12], micro_batch=2)
        for unit, batch in zip(UNITS[:12], prefetched, strict=True):
            (alone,) = train(damaged, config(loader=loader), [unit], micro_batch=2)
            assert (alone.keys, alone.digest) == (batch.keys, batch.digest)
            assert alone.images.equal(batch.images)

    def test_nothing_but_bad_samples_ends_with_an_error(self, tmp_path: Path, loader: str) -> None:
        data = write_dataset(tmp_path, [replace(_damaged_sample("garbage"), key=f"g{i}") for i in range(4)])
        with pytest.raises(DataError, match=f"{MAX_REPLACEMENTS + 1} samples in a row cannot be used"):
            train(data, config(loader=loader), [(0, 0)])

    def test_a_reading_error_is_not_a_bad_sample(self, tmp_path: Path, loader: str) -> None:
        data = write_dataset(tmp_path, [scene_sample(i) for i in range(8)])
        with (tmp_path / "train-000000.tar").open("r+b") as tar:
            tar.truncate(600)
        with pytest.raises(DataError, match=r"train-000000\.tar.*truncated"):
            train(data, config(loader=loader), [(0, 0), (1, 0)])


class TestEvaluation:
    def test_bad_samples_are_left_out_and_named(self, damaged: PackedData, loader: str) -> None:
        batches = [batch for group in evaluate(damaged, config(loader=loader), batch=4) for batch in group]
        assert sorted(_named(batches)) == sorted(BAD)
        assert len([key for batch in batches for key in batch.keys]) == 19

    def test_a_batch_of_bad_samples_alone_is_empty(self, damaged: PackedData, loader: str) -> None:
        ((batch,),) = evaluate(damaged, config(loader=loader), batch=1, indices=[19])
        assert batch.keys == () and len(batch.images) == len(batch.targets) == 0
        assert [bad.key for bad in batch.bad] == ["half_jpeg"]
