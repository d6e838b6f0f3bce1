import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_seg.errors import ConfigError
from dist_seg.models.encoder import build_encoder
from dist_seg.models.norm import check_norm, convert_norms, make_norm, num_groups


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (48, 6), (24, 3), (16, 2), (8, 1), (112, 14), (13, 1)])
def test_groups_divide_the_channels_and_hold_eight(channels: int, groups: int) -> None:
    assert num_groups(channels) == groups


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_group_leaves_no_batch_norm(name: str) -> None:
    encoder = build_encoder(name, 16, norm="group")
    assert not any(isinstance(module, _BatchNorm) for module in encoder.modules())


def test_group_norm_keeps_activation_weight_and_bias() -> None:
    net = build_encoder("tf_efficientnet_lite0", 16).net
    bn = net.get_submodule("bn1")
    nn.init.uniform_(bn.get_parameter("weight"))
    nn.init.uniform_(bn.get_parameter("bias"))
    weight, bias, act = bn.get_parameter("weight").clone(), bn.get_parameter("bias").clone(), bn.get_submodule("act")
    convert_norms(net, "group")
    group = net.get_submodule("bn1")
    images = torch.randn(2, 32, 5, 5)
    expected = act(nn.functional.group_norm(images, num_groups(32), weight, bias))
    torch.testing.assert_close(group(images), expected)


def test_frozen_norm_gives_the_same_in_training_and_keeps_its_statistics() -> None:
    encoder = build_encoder("resnet18", 16, norm="frozen").eval()
    images = torch.randn(2, 3, 32, 32)
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    expected = encoder(images)[1]
    torch.testing.assert_close(encoder.train()(images)[1], expected)
    assert all(torch.equal(before[name], buffer) for name, buffer in encoder.named_buffers())


def test_frozen_norm_trains_weight_and_bias() -> None:
    assert all(p.requires_grad for p in build_encoder("resnet18", 16, norm="frozen").parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_sync_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.norm: sync needs a GPU"):
        check_norm("sync")


def test_sync_converts_activations_too() -> None:
    net = nn.Sequential(make_norm("batch", 4), build_encoder("tf_efficientnet_lite0", 16).net)
    convert_norms(net, "sync")
    assert all(isinstance(m, nn.SyncBatchNorm) for m in net.modules() if isinstance(m, _BatchNorm))
    assert isinstance(net.get_submodule("1.bn1.act"), nn.ReLU6)
