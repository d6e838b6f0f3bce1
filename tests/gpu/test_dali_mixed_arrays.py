"""Geometry of arrays by DALI on the GPU, held to the torch loader."""

import pytest
import torch

from dist_seg.config.schema import AugmentConfig
from tests.array_cases import COLORLESS, assert_close, packed, smooth
from tests.loader_cases import PackedData, config, evaluate, train

pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

CUDA = torch.device("cuda")
UNITS = [(0, 0), (1, 0)]


@pytest.fixture(scope="module", params=[1, 5, 16])
def scenes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    sizes = ((120, 150), (97, 131), (64, 200), (33, 40))
    images = [smooth(seed, *sizes[seed % 4], channels=request.param) for seed in range(12)]
    return packed(tmp_path_factory.mktemp("arrays"), images)


@pytest.mark.parametrize("augment", COLORLESS.values(), ids=COLORLESS)
def test_every_augmentation(scenes: PackedData, augment: AugmentConfig) -> None:
    by_dali = train(scenes, config(augment, loader="dali"), UNITS, device=CUDA)
    assert by_dali[0].images.is_cuda and by_dali[0].targets.is_cuda
    assert_close(train(scenes, config(augment), UNITS), by_dali, 0.02)


@pytest.mark.parametrize("input_scale", [None, 0.5, 1.7])
def test_evaluation(scenes: PackedData, input_scale: float | None) -> None:
    reference = evaluate(scenes, config(input_scale=input_scale))
    by_dali = evaluate(scenes, config(loader="dali", input_scale=input_scale), device=CUDA)
    for a, b in zip(reference, by_dali, strict=True):
        assert_close(a, b, 0.02)


def test_chosen_channels(scenes: PackedData) -> None:
    by_dali = train(scenes, config(COLORLESS["all"], loader="dali", channels=(0, 0)), UNITS, device=CUDA)
    assert_close(train(scenes, config(COLORLESS["all"], channels=(0, 0)), UNITS), by_dali, 0.02)
