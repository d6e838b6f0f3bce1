import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_seg.errors import ConfigError
from dist_seg.models.encoder import build_pyramid_encoder
from dist_seg.models.mask_rcnn.fpn import FeaturePyramid


@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_100", "convnext_atto", "vgg11_bn"]
)
def test_every_level_has_its_stride(name: str) -> None:
    encoder = build_pyramid_encoder(name).eval()
    levels = FeaturePyramid(encoder.level_channels, 8, "none")(encoder(torch.zeros(1, 3, 128, 192)))
    assert [tuple(level.shape) for level in levels] == [
        (1, 8, 32, 48),
        (1, 8, 16, 24),
        (1, 8, 8, 12),
        (1, 8, 4, 6),
        (1, 8, 2, 3),
    ]


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_encoder_without_the_strides_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.encoder: {name} .*4, 8, 16, 32.*ResNet"):
        build_pyramid_encoder(name)


def test_higher_levels_reach_the_lower_ones() -> None:
    fpn = FeaturePyramid((4, 4, 4, 4), 4, "none")
    features = [torch.zeros(1, 4, 32 >> i, 32 >> i, requires_grad=True) for i in range(4)]
    fpn(features)[0].sum().backward()
    assert all(level.grad is not None and level.grad.any() for level in features)


def test_group_norm_takes_the_place_of_biases() -> None:
    fpn = FeaturePyramid((8, 8, 8, 8), 16, "group")
    assert sum(isinstance(module, nn.GroupNorm) for module in fpn.modules()) == 8
    assert all(module.bias is None for module in fpn.modules() if isinstance(module, nn.Conv2d))


def test_encoder_norms_and_frozen_stages_are_those_of_the_semantic_encoder() -> None:
    assert not any(isinstance(m, _BatchNorm) for m in build_pyramid_encoder("resnet18", "group").modules())
    encoder = build_pyramid_encoder("resnet18", "frozen", frozen_stages=2).train()
    assert not any(module.training for module in encoder.modules() if isinstance(module, _BatchNorm))
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in encoder.named_parameters() if name > "net.layer2"}
