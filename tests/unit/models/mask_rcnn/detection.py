"""Scenes and small networks for the tests of Mask R-CNN."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dist_seg.config.schema import MaskRcnnConfig, ModelConfig
from dist_seg.models import build_instance_model
from dist_seg.models.mask_rcnn.model import MaskRCNN

SMALL = MaskRcnnConfig(
    fpn_channels=16,
    anchor_sizes=(8, 16, 32, 64, 128),
    box_channels=32,
    mask_channels=16,
    mask_convs=1,
    roi_samples=64,
    rpn_pre_nms_train=200,
    rpn_post_nms_train=100,
)


@dataclass(frozen=True, kw_only=True)
class Objects:
    """An `ObjectTargets`."""

    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    layers: Tensor
    ids: Tensor


def objects_of(boxes: list[tuple[int, int, int, int]], labels: list[int] | None = None) -> Objects:
    """Objects in layer 0 with ids from 1."""
    count = len(boxes)
    return Objects(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels if labels is not None else [0] * count, dtype=torch.int64),
        ignored=torch.zeros(count, dtype=torch.bool),
        layers=torch.zeros(count, dtype=torch.int64),
        ids=torch.arange(1, count + 1),
    )


def ignoring(objects: Objects, *indices: int) -> Objects:
    ignored = objects.ignored.clone()
    ignored[list(indices)] = True
    return replace(objects, ignored=ignored)


def rectangles(objects: Objects, height: int, width: int, num_layers: int = 1) -> Tensor:
    """Id layers (L, H, W) int32 in which every object fills its box; later objects cover earlier ones."""
    layers = torch.zeros(num_layers, height, width, dtype=torch.int32)
    for box, layer, identity in zip(objects.boxes.long().tolist(), objects.layers, objects.ids, strict=True):
        x1, y1, x2, y2 = box
        layers[layer, y1:y2, x1:x2] = identity.int()
    return layers


def scattered(count: int, size: int, seed: int = 0) -> Objects:
    """Random boxes of 6 to 20 pixels inside an image of size x size."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, size - 20, (count, 2), generator=generator)
    extent = torch.randint(6, 20, (count, 2), generator=generator)
    boxes = [tuple(box) for box in torch.cat([low, low + extent], dim=1).tolist()]
    return objects_of(boxes, [i % 2 for i in range(count)])


def operators_of(work: Callable[[], object]) -> int:
    """The number of torch operators that `work` calls, nested ones included."""
    work()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        work()
    return sum(1 for event in recorded.events() if event.name.startswith("aten::"))


def small(heads: MaskRcnnConfig = SMALL, num_classes: int = 2, **model: object) -> MaskRCNN:
    torch.manual_seed(0)
    settings = {"name": "mask_rcnn", "encoder": "mobilenetv3_small_050", "weights": None, **model}
    net = build_instance_model(ModelConfig(**settings), heads, num_classes)  # type: ignore[arg-type]  # by name
    assert isinstance(net, MaskRCNN)
    return net
