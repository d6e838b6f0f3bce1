"""Layers of object ids through DALI on the GPU, and what is derived from them there, held to the torch loader."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dist_seg.config.schema import AugmentConfig
from tests.instance_cases import LARGE_SCALE_JITTER, assert_same_objects, discs_sample, real_samples
from tests.loader_cases import AUGMENTATIONS, PackedData, assert_same, config, evaluate, train, write_dataset

pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

CUDA = torch.device("cuda")
SIZES = ((120, 150), (97, 131), (64, 200), (150, 90))
UNITS = [(0, 0), (1, 0)]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> PackedData:
    return write_dataset(tmp_path_factory.mktemp("real"), real_samples(shared_data))


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    """One, two and three layers, of several forms and sizes, some with a crowd."""
    samples = [
        discs_sample(10 * i + j, height=height, width=width, depth=1 + (i + j) % 3, crowd=i == j, form=form)
        for i, form in enumerate(("jpeg420", "jpeg444", "png", "grey_png"))
        for j, (height, width) in enumerate(SIZES)
    ]
    return write_dataset(tmp_path_factory.mktemp("discs"), samples)


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_real_images(real: PackedData, augment: AugmentConfig) -> None:
    by_dali = train(real, config(augment, loader="dali"), UNITS, device=CUDA, global_batch=3, micro_batch=3)
    assert by_dali[0].images.is_cuda and by_dali[0].targets.is_cuda
    reference = train(real, config(augment), UNITS, global_batch=3, micro_batch=3)
    assert_same(reference, by_dali, config())
    assert_same_objects(reference, by_dali)


@pytest.mark.parametrize("rotate_deg", [0.0, 15.0])
def test_large_scale_jitter(real: PackedData, rotate_deg: float) -> None:
    augment = replace(LARGE_SCALE_JITTER, rotate_deg=rotate_deg)
    by_dali = train(real, config(augment, loader="dali", input_side=160), UNITS, device=CUDA)
    reference = train(real, config(augment, input_side=160), UNITS)
    assert_same(reference, by_dali, config())
    assert_same_objects(reference, by_dali)


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_every_number_of_layers_form_and_size(discs: PackedData, augment: AugmentConfig) -> None:
    units = [(step, 0) for step in range(4)]
    by_dali = train(discs, config(augment, loader="dali"), units, device=CUDA)
    reference = train(discs, config(augment), units)
    assert_same(reference, by_dali, config())
    assert_same_objects(reference, by_dali)


@pytest.mark.parametrize("input_side", [None, 200])
def test_evaluation(discs: PackedData, input_side: int | None) -> None:
    reference = evaluate(discs, config(input_side=input_side))
    by_dali = evaluate(discs, config(loader="dali", input_side=input_side), device=CUDA)
    for a, b in zip(reference, by_dali, strict=True):
        assert_same(a, b, config())
        assert [batch.annotations for batch in a] == [batch.annotations for batch in b]


def test_an_id_without_an_annotation_is_replaced_as_by_torch(tmp_path: Path) -> None:
    samples = [discs_sample(i) for i in range(8)]
    samples[2] = replace(samples[2], key="bad", target=discs_sample(2, depth=2).target)
    data = write_dataset(tmp_path, samples)
    by_dali = train(data, config(loader="dali"), UNITS, device=CUDA)
    reference = train(data, config(), UNITS)
    assert [bad.key for batch in by_dali for bad in batch.bad] == ["bad"]
    assert_same(reference, by_dali, config())
    assert_same_objects(reference, by_dali)
