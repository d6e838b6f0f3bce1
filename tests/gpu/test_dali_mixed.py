"""Decoding and geometry by DALI on the GPU, held to the torch loader."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dist_seg.config.schema import AugmentConfig
from tests.loader_cases import (
    AUGMENTATIONS,
    PackedData,
    assert_same,
    camvid_samples,
    config,
    evaluate,
    scene_sample,
    train,
    with_pixels,
    write_dataset,
)

pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

CUDA = torch.device("cuda")
FORMS = ("jpeg420", "jpeg444", "progressive", "grey_jpeg", "png", "grey_png")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    samples = [
        scene_sample(10 * i + j, form=form, height=height, width=width)
        for i, form in enumerate(FORMS)
        for j, (height, width) in enumerate(((240, 300), (97, 131), (64, 200), (33, 40)))
    ]
    return write_dataset(tmp_path_factory.mktemp("scenes"), samples)


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_real_pictures(tmp_path: Path, shared_data: Path, augment: AugmentConfig) -> None:
    camvid = write_dataset(tmp_path, camvid_samples(shared_data, 8))
    units = [(0, 0), (1, 0)]
    by_dali = train(camvid, config(augment, loader="dali"), units, device=CUDA)
    assert by_dali[0].images.is_cuda and by_dali[0].targets.is_cuda
    assert_same(train(camvid, config(augment), units), by_dali, config())


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_every_form_and_size(scenes: PackedData, augment: AugmentConfig) -> None:
    units = [(step, 0) for step in range(6)]
    by_dali = train(scenes, config(augment, loader="dali"), units, device=CUDA)
    assert_same(train(scenes, config(augment), units), by_dali, config())


@pytest.mark.parametrize("input_scale", [None, 0.5, 1.7])
def test_evaluation(scenes: PackedData, input_scale: float | None) -> None:
    reference = evaluate(scenes, config(input_scale=input_scale))
    by_dali = evaluate(scenes, config(loader="dali", input_scale=input_scale), device=CUDA)
    for a, b in zip(reference, by_dali, strict=True):
        assert_same(a, b, config())


def test_batches_stay_whole_while_later_ones_are_made(scenes: PackedData) -> None:
    units = [(step, 0) for step in range(24)]
    cfg = config(AUGMENTATIONS["all"], loader="dali", prefetch=3)
    kept = train(scenes, cfg, units, device=CUDA)  # all at once, so that reused memory would show
    assert_same(train(scenes, config(AUGMENTATIONS["all"]), units), kept, config())


def test_real_pictures_that_are_enlarged_first(tmp_path: Path, shared_data: Path) -> None:
    camvid = write_dataset(tmp_path, camvid_samples(shared_data, 8))
    units = [(0, 0), (1, 0)]
    augment = AUGMENTATIONS["all"]
    by_dali = train(camvid, config(augment, loader="dali", input_scale=1.5), units, device=CUDA)
    assert_same(train(camvid, config(augment, input_scale=1.5), units), by_dali, config())


_NO_PIXELS = b"\x78\x9c" + bytes(range(200))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    """12 samples; headers and checksums of the three bad ones are right, but for the garbage."""
    samples = [scene_sample(i, form="png" if i % 2 else "jpeg420") for i in range(12)]
    samples[1] = replace(samples[1], key="image", image=with_pixels(samples[1].image, _NO_PIXELS))
    samples[4] = replace(samples[4], key="mask", target=with_pixels(samples[4].target, _NO_PIXELS))
    samples[8] = replace(samples[8], key="garbage", image=bytes(range(256)) * 16)
    return write_dataset(tmp_path_factory.mktemp("damaged"), samples)


def test_what_dali_cannot_decode_is_replaced_as_by_torch(damaged: PackedData) -> None:
    units = [(step, 0) for step in range(6)]
    by_dali = train(damaged, config(AUGMENTATIONS["all"], loader="dali", prefetch=3), units, device=CUDA)
    assert {bad.key for batch in by_dali for bad in batch.bad} == {"image", "mask", "garbage"}
    assert_same(train(damaged, config(AUGMENTATIONS["all"]), units), by_dali, config())


def test_the_batches_around_a_failed_one_are_untouched(damaged: PackedData) -> None:
    units = [(step, 0) for step in range(6)]
    cfg = config(AUGMENTATIONS["all"], loader="dali", prefetch=3)
    for unit, batch in zip(units, train(damaged, cfg, units, device=CUDA), strict=True):
        (alone,) = train(damaged, cfg, [unit], device=CUDA)
        assert (alone.keys, alone.digest, alone.bad) == (batch.keys, batch.digest, batch.bad)
        assert torch.equal(alone.images, batch.images)
        assert torch.equal(alone.targets, batch.targets)


def test_what_dali_cannot_decode_is_left_out_of_evaluation(damaged: PackedData) -> None:
    groups = evaluate(damaged, config(loader="dali"), device=CUDA)
    batches = [batch for group in groups for batch in group]
    assert {bad.key for batch in batches for bad in batch.bad} == {"image", "mask", "garbage"}
    assert sum(len(batch.keys) for batch in batches) == 9


def test_a_bad_sample_is_replaced(tmp_path: Path) -> None:
    samples = [scene_sample(i) for i in range(8)]
    half = samples[3].image[: len(samples[3].image) // 2]
    samples[3] = replace(samples[3], image=half)
    data = write_dataset(tmp_path, samples)
    units = [(0, 0), (1, 0)]
    by_dali = train(data, config(loader="dali"), units, device=CUDA)
    assert [bad.key for batch in by_dali for bad in batch.bad] == [samples[3].key]
    assert_same(train(data, config(), units), by_dali, config())
