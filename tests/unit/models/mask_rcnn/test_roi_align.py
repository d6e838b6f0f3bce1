import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from dist_seg.models.mask_rcnn.roi_align import PyramidRoIAlign

SIZE = (128, 192)


def pyramid(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(2, 3, SIZE[0] // stride, SIZE[1] // stride, dtype=dtype, requires_grad=True)
        for stride in (4, 8, 16, 32)
    ]


def regions(count: int) -> Tensor:
    """Boxes of all sizes, up to the edges of the image."""
    corners = torch.rand(count, 2, 2, dtype=torch.float64).pow(2) * torch.tensor(SIZE[::-1], dtype=torch.float64)
    corners = torch.where(torch.rand(count, 2, 1) < 0.1, torch.tensor(SIZE[::-1], dtype=torch.float64), corners)
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


@pytest.mark.parametrize("size", [7, 14])
def test_values_and_gradients_are_those_of_torchvision(size: int) -> None:
    ours, theirs = pyramid(), pyramid()
    boxes = [regions(200), regions(100)]
    # Every level is read.
    boxes[0][:4] = torch.tensor([[0, 0, 5, 5], [0, 0, 128, 128], [0, 0, 192, 128], [190, 126, 192, 128]])
    pooled = PyramidRoIAlign(size)(ours, boxes, SIZE)
    reference = MultiScaleRoIAlign(["0", "1", "2", "3"], size, 2)
    expected = reference({str(i): level for i, level in enumerate(theirs)}, boxes, [SIZE])
    torch.testing.assert_close(pooled, expected)
    gradient = torch.randn_like(expected)
    pooled.backward(gradient)
    expected.backward(gradient)
    for own, reference_level in zip(ours, theirs, strict=True):
        assert own.grad is not None and own.grad.any() == reference_level.grad.any()
        torch.testing.assert_close(own.grad, reference_level.grad)


def test_no_region_has_a_graph() -> None:
    levels = pyramid()
    pooled = PyramidRoIAlign(7)(levels, [torch.zeros(0, 4, dtype=torch.float64)] * 2, SIZE)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert all(level.grad is not None and not level.grad.any() for level in levels)


def test_low_precision_maps_are_pooled_in_that_of_the_boxes() -> None:
    levels = [level.detach().bfloat16() for level in pyramid()]
    assert PyramidRoIAlign(7)(levels, [regions(3).float(), regions(3).float()], SIZE).dtype == torch.float32
