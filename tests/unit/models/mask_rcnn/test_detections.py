import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dist_seg.models.mask_rcnn.detections import Detections, paste_masks


def detections(boxes: Tensor, masks: Tensor) -> Detections:
    count = len(boxes)
    return Detections(boxes=boxes, masks=masks, scores=torch.ones(count), labels=torch.zeros(count, dtype=torch.int64))


def pasted_by_grid_sample(found: Detections, height: int, width: int) -> Tensor:
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    boxes = found.boxes[:, None].double()
    across = (x - boxes[..., 0]) / (boxes[..., 2] - boxes[..., 0]) * 2 - 1
    down = (y - boxes[..., 1]) / (boxes[..., 3] - boxes[..., 1]) * 2 - 1
    shape = (len(across), height, width)
    grid = torch.stack([across[:, None].expand(shape), down[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(found.masks[:, None].double(), grid, align_corners=False)[:, 0]


def test_full_mask_fills_its_box() -> None:
    found = detections(torch.tensor([[3.0, 5, 20, 30]]), torch.ones(1, 28, 28))
    (mask,) = paste_masks(found, 40, 50)
    expected = torch.zeros(1, 40, 50, dtype=torch.bool)
    expected[:, 5:30, 3:20] = True
    assert mask.equal(expected)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_agrees_with_grid_sample(chunk: int) -> None:
    torch.manual_seed(0)
    low = torch.rand(8, 2) * 60 - 10
    found = detections(torch.cat([low, low + 1 + torch.rand(8, 2) * 60], dim=1), torch.rand(8, 28, 28))
    expected = pasted_by_grid_sample(found, 50, 70)
    masks = list(paste_masks(found, 50, 70, chunk=chunk))
    assert all(mask.dtype == torch.bool and len(mask) <= chunk for mask in masks)
    clear = (expected - 0.5).abs() > 1e-4
    assert torch.cat(masks)[clear].equal((expected > 0.5)[clear])


def test_no_detection_gives_no_chunk() -> None:
    assert list(paste_masks(detections(torch.zeros(0, 4), torch.zeros(0, 28, 28)), 8, 8)) == []
