import pytest
import torch
from torch import nn

from dist_seg.errors import ConfigError
from dist_seg.models.encoder import build_encoder


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_100", "convnext_atto"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_features_have_the_strides_asked_for(name: str, output_stride: int) -> None:
    encoder = build_encoder(name, output_stride).eval()
    low, high = encoder(torch.zeros(1, 3, 64, 96))
    assert low.shape == (1, encoder.level_channels[0], 16, 24)
    assert high.shape == (1, encoder.level_channels[1], 64 // output_stride, 96 // output_stride)


@pytest.mark.parametrize(
    "name", ["vgg11_bn", "hrnet_w18_small", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]
)
def test_encoder_without_the_strides_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*output_stride 16.*ResNet"):
        build_encoder(name, 16)


def test_unknown_encoder_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"resnet5O.*resnet50"):
        build_encoder("resnet5O", 16)


def test_frozen_stages_have_no_gradient_and_the_rest_has() -> None:
    encoder = build_encoder("tf_efficientnet_lite0", 16, frozen_stages=2).train()
    _, high = encoder(torch.randn(2, 3, 32, 32))
    high.sum().backward()
    with_gradient = {name for name, p in encoder.named_parameters() if p.grad is not None}
    frozen = {name for name, _ in encoder.named_parameters() if name.startswith(FROZEN_TWO)}
    assert with_gradient == {name for name, _ in encoder.named_parameters()} - frozen


FROZEN_TWO = ("net.conv_stem", "net.bn1", "net.blocks.0", "net.blocks.1")


@pytest.mark.parametrize(
    ("name", "stages", "last", "next_one"),
    [
        ("resnet18", 2, "net.layer1.1.bn2", "net.layer2.0.bn1"),
        ("convnext_atto", 1, "net.stages_0.blocks.1.mlp.fc2", "net.stages_1.downsample.0"),
    ],
)
def test_frozen_stages_end_where_timm_takes_a_feature_map(name: str, stages: int, last: str, next_one: str) -> None:
    encoder = build_encoder(name, 16, frozen_stages=stages)
    assert not any(p.requires_grad for p in encoder.get_submodule(last).parameters())
    assert all(p.requires_grad for p in encoder.get_submodule(next_one).parameters())


def test_statistics_of_frozen_stages_stay() -> None:
    encoder = build_encoder("resnet18", 16, frozen_stages=2).train()
    encoder(torch.randn(2, 3, 32, 32) + 5)
    moved = {
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_mean.any()
    }
    assert moved == {
        name for name, m in encoder.named_modules() if isinstance(m, nn.BatchNorm2d) and name > "net.layer2"
    }


def test_more_frozen_stages_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"frozen_stages: 6 is not in 0\.\.5"):
        build_encoder("resnet18", 16, frozen_stages=6)
