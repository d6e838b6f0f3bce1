import copy

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from dist_seg.config.schema import ModelConfig
from dist_seg.errors import ConfigError
from dist_seg.models import build_model
from dist_seg.models.decoders.deeplab import DeepLabV3Plus

SMALL = {
    "encoder": "mobilenetv3_small_050",
    "aspp_channels": 16,
    "low_level_channels": 8,
    "decoder_channels": 16,
    "weights": None,
}


def small(**changes: object) -> DeepLabV3Plus:
    torch.manual_seed(0)
    model = build_model(ModelConfig(**{**SMALL, **changes}), 3)  # type: ignore[arg-type]  # keywords by name
    assert isinstance(model, DeepLabV3Plus)
    return model


@pytest.mark.parametrize("size", [(1, 1), (7, 130), (33, 17), (64, 64), (65, 95)])
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("training", [True, False])
def test_logits_have_the_size_of_the_image(size: tuple[int, int], output_stride: int, training: bool) -> None:
    model = small(output_stride=output_stride).train(training)
    assert model(torch.randn(1, 3, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
def test_one_image_trains_every_parameter(norm: str) -> None:
    model = small(norm=norm).train()
    model(torch.randn(1, 3, 48, 48)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_channels_last_gives_the_same() -> None:
    model = small().eval()
    images = torch.randn(2, 3, 40, 56)
    expected = model(images)
    changed = model.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-5)


def test_padding_to_the_stride_changes_nothing_inside() -> None:
    model = small().eval()
    images = torch.randn(1, 3, 50, 70)
    padded = torch.zeros(1, 3, 64, 80)
    padded[:, :, :50, :70] = images
    torch.testing.assert_close(model(images), model(padded)[:, :, :50, :70])


def test_dilations_are_doubled_at_output_stride_8() -> None:
    branch = small(output_stride=8, aspp_dilations=(3,)).aspp.branches[1]
    assert branch.get_submodule("0").dilation == (6, 6)


def test_frozen_norm_stays_in_evaluation_mode_in_encoder_and_decoder() -> None:
    model = small(norm="frozen").train()
    assert not any(module.training for module in model.modules() if isinstance(module, _BatchNorm))


def test_copy_freezes_its_own_modules() -> None:
    model = small(norm="frozen")
    clone = copy.deepcopy(model)
    clone.train()
    assert not any(module.training for module in clone.modules() if isinstance(module, _BatchNorm))


def test_fp64_runs() -> None:
    assert small().double()(torch.randn(2, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aspp_channels": 0}, "model.aspp_channels: 0"),
        ({"aspp_dilations": (6, -1)}, r"model.aspp_dilations\[1\]: -1"),
        ({"dropout": 1.0}, "model.dropout: 1.0"),
        ({"name": "unet9000"}, "model.name: 'unet9000' is not known"),
        ({"name": "no_such_module:build"}, "cannot import no_such_module"),
        ({"name": "math:build"}, "math has no function build"),
        ({"name": "math:pi"}, "math:pi is a float, not a function"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**changes)


def pointwise(cfg: ModelConfig, num_classes: int) -> torch.nn.Module:
    return torch.nn.Conv2d(3, num_classes, cfg.aspp_dilations[0])


def not_a_module(cfg: ModelConfig, num_classes: int) -> int:
    return num_classes


@pytest.mark.parametrize("separator", [".", ":"])
def test_user_model_comes_by_dotted_path(separator: str) -> None:
    cfg = ModelConfig(name=f"{__name__}{separator}pointwise", aspp_dilations=(1,))
    assert build_model(cfg, 5)(torch.zeros(1, 3, 4, 4)).shape == (1, 5, 4, 4)


def test_user_function_that_returns_no_module_is_refused() -> None:
    with pytest.raises(ConfigError, match="returned a int"):
        build_model(ModelConfig(name=f"{__name__}:not_a_module"), 5)


def takes_channels(cfg: ModelConfig, num_classes: int, in_channels: int) -> torch.nn.Module:
    return torch.nn.Conv2d(in_channels, num_classes, 1)


def test_a_model_of_the_user_s_own_is_told_the_channels_where_it_takes_them() -> None:
    cfg = ModelConfig(name=f"{__name__}:takes_channels")
    assert build_model(cfg, 5, in_channels=7)(torch.zeros(1, 7, 4, 4)).shape == (1, 5, 4, 4)


def test_images_may_have_other_channels() -> None:
    cfg = ModelConfig(**SMALL)  # type: ignore[arg-type]  # keywords by name
    assert build_model(cfg, 3, in_channels=5).eval()(torch.zeros(1, 5, 40, 50)).shape == (1, 3, 40, 50)
