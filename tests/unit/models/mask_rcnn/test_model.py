from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dist_seg.config.schema import MaskRcnnConfig, ModelConfig
from dist_seg.errors import ConfigError
from dist_seg.models import build_instance_model
from dist_seg.models.mask_rcnn.detections import Detections
from dist_seg.models.mask_rcnn.model import MaskRCNN
from dist_seg.models.mask_rcnn.rpn import RegionProposals
from tests.unit.models.mask_rcnn.detection import SMALL, Objects, ignoring, objects_of, rectangles, scattered, small


def losses_of(
    model: MaskRCNN, objects: Sequence[Objects], size: int = 96, images: Tensor | None = None
) -> Mapping[str, Tensor]:
    torch.manual_seed(1)
    if images is None:
        images = torch.randn(len(objects), 3, size, size)
    layers = torch.stack([rectangles(of_image, size, size) for of_image in objects])
    losses = model.train()(images, objects, layers)
    assert isinstance(losses, dict)
    return losses


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (400, 400), (2, 5)])
@pytest.mark.parametrize("head_norm", ["none", "group"])
def test_every_parameter_has_a_gradient_whatever_the_number_of_objects(counts: tuple[int, int], head_norm: str) -> None:
    model = small(replace(SMALL, head_norm=head_norm))  # type: ignore[arg-type]  # a literal by name
    losses = losses_of(model, [scattered(count, 96) for count in counts])
    assert list(losses) == ["rpn_objectness", "rpn_box", "classification", "box", "mask"]
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    if not any(counts):
        assert losses["rpn_box"] == losses["box"] == losses["mask"] == 0
    else:
        assert all(loss > 0 for loss in losses.values())
    sum(losses.values(), torch.zeros(())).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


def test_each_loss_alone_has_a_graph_even_without_a_single_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegionProposals, "_propose", lambda self, *args, **kwargs: [torch.zeros(0, 4)] * 2)
    model = small()
    losses = losses_of(model, [objects_of([]), objects_of([])])
    heads = {
        "rpn_objectness": "rpn.head.cls_logits",
        "rpn_box": "rpn.head.bbox_pred",
        "classification": "roi_heads.box_predictor.cls_score",
        "box": "roi_heads.box_predictor.bbox_pred",
        "mask": "roi_heads.mask_predictor.mask_fcn_logits",
    }
    for name, head in heads.items():
        (gradient,) = torch.autograd.grad(losses[name], [model.get_parameter(f"{head}.weight")], retain_graph=True)
        assert gradient.isfinite().all(), name
    assert losses["classification"] == losses["box"] == losses["mask"] == 0


def test_an_image_that_is_ignored_as_a_whole_teaches_nothing() -> None:
    model = small()
    everything = ignoring(objects_of([(-200, -200, 400, 400)]), 0)
    layers = torch.zeros(1, 1, 96, 96, dtype=torch.int32)
    losses = model.train()(torch.randn(1, 3, 96, 96), [everything], layers)
    assert isinstance(losses, dict)
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values(), torch.zeros(())).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_same_seed_draws_the_same_samples() -> None:
    model, objects = small(norm="frozen"), [scattered(20, 96), scattered(3, 96, seed=1)]
    first, second = losses_of(model, objects), losses_of(model, objects)
    assert all(first[name].equal(second[name]) for name in first)


def test_mask_samples_bound_the_regions_of_the_mask_head() -> None:
    model, seen = small(replace(SMALL, mask_samples=3)), []
    model.roi_heads.mask_head.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    losses_of(model, [scattered(20, 96), scattered(1, 96)])
    assert seen[0] in (4, 5, 6)


def test_two_squares_are_learnt() -> None:
    model = small(norm="group", heads=replace(SMALL, fpn_channels=32, head_norm="group"))
    objects = objects_of([(8, 8, 40, 40), (56, 40, 88, 72)], [0, 1])
    images = torch.zeros(1, 3, 96, 96)
    images[0, 0, 8:40, 8:40] = images[0, 1, 40:72, 56:88] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(30):
        loss = sum(losses_of(model, [objects], images=images).values(), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]


@pytest.mark.parametrize("size", [(1, 1), (33, 100), (96, 96)])
def test_detections_are_inside_the_image_and_ordered(size: tuple[int, int]) -> None:
    model = small(replace(SMALL, score_threshold=0.0, detections_per_image=7)).eval()
    found = model(torch.randn(2, 3, *size))
    assert isinstance(found, list) and len(found) == 2
    for of_image in found:
        count = len(of_image.boxes)
        assert count <= 7
        assert of_image.boxes.dtype == of_image.masks.dtype == of_image.scores.dtype == torch.float32
        assert of_image.masks.shape == (count, 28, 28)
        assert (of_image.boxes >= 0).all()
        assert (of_image.boxes <= torch.tensor([size[1], size[0], size[1], size[0]])).all()
        assert set(of_image.labels.tolist()) <= {0, 1}
        assert of_image.scores.diff().le(0).all()


def test_nothing_above_the_threshold_gives_empty_detections() -> None:
    found = small(replace(SMALL, score_threshold=1.0)).eval()(torch.randn(1, 3, 64, 64))
    assert [len(of_image.boxes) for of_image in found] == [0]
    assert isinstance(found[0], Detections) and found[0].masks.shape == (0, 28, 28)


class _AsTensors(nn.Module):
    """Returns the detections of a single image as a tuple, as an export needs them."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        (found,) = self.model(images)
        return found.boxes, found.scores, found.labels, found.masks


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")  # of the tracer, about what is constant at a fixed size
def test_a_traced_network_finds_another_number_of_objects_in_another_image() -> None:
    # Classification that depends on the image, so that the number above the threshold does too.
    model = small(
        replace(SMALL, score_threshold=0.34, nms_threshold=0.2, detections_per_image=999), norm="frozen"
    ).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=1.0)

    tensors = _AsTensors(model).eval()
    images = [torch.randn(1, 3, 96, 96), 0.1 * torch.randn(1, 3, 96, 96)]
    traced = torch.jit.trace(tensors, images[:1], check_trace=False)
    expected = [tensors(image) for image in images]
    assert len(expected[0][0]) != len(expected[1][0])
    for image, wanted in zip(images, expected, strict=True):
        for got, want in zip(traced(image), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_channels_last_gives_the_same() -> None:
    model, objects = small(norm="frozen"), [scattered(5, 96)]
    images = torch.randn(1, 3, 96, 96)
    expected = losses_of(model, objects, images=images)
    changed = losses_of(
        model.to(memory_format=torch.channels_last), objects, images=images.to(memory_format=torch.channels_last)
    )
    for name, loss in expected.items():
        torch.testing.assert_close(changed[name], loss, rtol=1e-3, atol=1e-5)


def test_bf16_autocast_trains_and_detects() -> None:
    model = small(replace(SMALL, score_threshold=0.0))
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(model, [scattered(5, 96)])
        found = model.eval()(torch.randn(1, 3, 96, 96))
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values(), torch.zeros(())).backward()
    assert isinstance(found, list) and found[0].boxes.dtype == torch.float32


def test_fp64_trains() -> None:
    model = small().double()
    losses = losses_of(model, [scattered(5, 96)], images=torch.randn(1, 3, 96, 96, dtype=torch.float64))
    assert all(loss.dtype == torch.float64 and loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    ("model", "num_classes", "message"),
    [
        (ModelConfig(name="deeplabv3plus"), 1, "'deeplabv3plus' is not known for the task instance"),
        (ModelConfig(name="auto", weights=None), 0, "at least 1 class"),
        (ModelConfig(name="mask_rcnn", encoder="vit_tiny_patch16_224"), 1, "does not take the strides 4, 8, 16, 32"),
    ],
)
def test_what_cannot_be_built_is_refused(model: ModelConfig, num_classes: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_instance_model(model, MaskRcnnConfig(), num_classes)
