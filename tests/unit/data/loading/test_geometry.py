"""Geometry on tiny pictures whose results can be written down."""

import math

import numpy as np
import pytest
import torch

from dist_seg.data.loading.augment import SampleTransform
from dist_seg.data.loading.geometry import gaussian_blur, place_image, place_mask

MASK = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
PADDING = (7, 8, 9)


def _picture(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def _mask(t: SampleTransform) -> list[list[int]]:
    rows: list[list[int]] = place_mask(MASK, t, 255).tolist()
    return rows


class TestMask:
    def test_the_identity_leaves_it(self) -> None:
        assert _mask(SampleTransform(roi=(0, 0, 2, 3), resized=(2, 3), canvas=(2, 3))) == MASK.tolist()

    def test_enlarging_repeats_pixels(self) -> None:
        t = SampleTransform(roi=(0, 0, 2, 3), resized=(4, 6), canvas=(4, 6))
        assert _mask(t) == MASK.repeat(2, axis=0).repeat(2, axis=1).tolist()

    def test_shrinking_by_three_takes_the_middle(self) -> None:
        t = SampleTransform(roi=(0, 0, 2, 3), resized=(2, 1), canvas=(2, 1))
        assert _mask(t) == [[2], [5]]

    def test_padding_is_ignored(self) -> None:
        t = SampleTransform(roi=(0, 0, 2, 3), resized=(2, 3), canvas=(3, 5), offset=(1, 2))
        assert _mask(t) == [[255] * 5, [255, 255, 1, 2, 3], [255, 255, 4, 5, 6]]

    def test_the_mirror_turns_the_whole_canvas(self) -> None:
        t = SampleTransform(roi=(0, 0, 2, 3), resized=(2, 3), canvas=(3, 5), offset=(1, 2), flip=True)
        assert _mask(t) == [[255] * 5, [3, 2, 1, 255, 255], [6, 5, 4, 255, 255]]

    def test_a_quarter_turn(self) -> None:
        # (x, y) on the canvas of 3 x 2 comes from (y, 2 - x) of the picture.
        t = SampleTransform(roi=(0, 0, 2, 3), resized=(2, 3), canvas=(3, 2), warp=(0, 1, 0, -1, 0, 2))
        assert _mask(t) == np.rot90(MASK, -1).tolist()

    def test_a_warp_past_the_border_is_ignored(self) -> None:
        t = SampleTransform(roi=(0, 0, 2, 3), resized=(2, 3), canvas=(2, 3), warp=(1, 0, 1, 0, 1, 0))
        assert _mask(t) == [[2, 3, 255], [5, 6, 255]]


class TestImage:
    def test_offset_and_padding(self) -> None:
        t = SampleTransform(roi=(0, 0, 2, 3), resized=(2, 3), canvas=(3, 4), offset=(1, 1))
        image = place_image(_picture(MASK), t, PADDING)
        assert image[:, 0, 0].tolist() == list(PADDING)
        assert image[0].tolist() == [[7, 7, 7, 7], [7, 1, 2, 3], [7, 4, 5, 6]]

    def test_the_mirror_agrees_with_the_mask(self) -> None:
        t = SampleTransform(roi=(0, 0, 2, 3), resized=(2, 3), canvas=(3, 5), offset=(1, 2), flip=True)
        image, mask = place_image(_picture(MASK), t, (255, 255, 255)), place_mask(MASK, t, 255)
        assert torch.equal(image[0], mask)

    def test_a_warp_agrees_with_the_mask(self) -> None:
        t = SampleTransform(roi=(0, 0, 2, 3), resized=(2, 3), canvas=(3, 2), warp=(0, 1, 0, -1, 0, 2))
        image, mask = place_image(_picture(MASK), t, (255, 255, 255)), place_mask(MASK, t, 255)
        assert torch.equal(image[0], mask)

    def test_halving_averages_over_the_filter(self) -> None:
        grey = np.tile(np.array([0, 200], dtype=np.uint8), (8, 8))
        t = SampleTransform(roi=(0, 0, 8, 16), resized=(8, 8), canvas=(8, 8))
        middle = place_image(_picture(grey), t, PADDING)[0, :, 2:-2].float()
        assert (middle - 100).abs().max() <= 1

    def test_enlarging_keeps_pixel_centres(self) -> None:
        ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (4, 1))
        t = SampleTransform(roi=(0, 0, 4, 16), resized=(4, 32), canvas=(4, 32))
        image = place_image(_picture(ramp), t, PADDING)[0, 0, 2:-2].float()
        expected = (torch.arange(2, 30) + 0.5) / 2 * 10 - 5  # the ramp at each new pixel's centre
        assert (image - expected).abs().max() <= 0.51

    def test_the_warp_may_enlarge_by_itself(self) -> None:
        ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (4, 1))
        t = SampleTransform(roi=(0, 0, 4, 16), resized=(4, 16), canvas=(4, 32), warp=(0.5, 0, 0, 0, 1, 0))
        image = place_image(_picture(ramp), t, PADDING)[0, 1, 2:-2].float()
        expected = (torch.arange(2, 30) + 0.5) / 2 * 10 - 5
        assert (image - expected).abs().max() <= 0.51


class TestBlur:
    def test_a_point_becomes_the_gaussian(self) -> None:
        image = torch.zeros(3, 15, 15, dtype=torch.uint8)
        image[:, 7, 7] = 255
        blurred = gaussian_blur(image, 1.0)[0].float()
        weights = torch.tensor([math.exp(-0.5 * i * i) for i in range(-3, 4)])
        weights /= weights.sum()
        assert (blurred[4:11, 4:11] - 255 * torch.outer(weights, weights)).abs().max() <= 0.51
        assert blurred[:4].sum() == 0

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3)])
    def test_a_flat_picture_smaller_than_the_window_stays(self, size: tuple[int, int]) -> None:
        image = torch.full((3, *size), 93, dtype=torch.uint8)
        assert torch.equal(gaussian_blur(image, 2.5), image)

    def test_the_border_is_mirrored_without_its_pixel(self) -> None:
        row = torch.tensor([0, 0, 0, 0, 240], dtype=torch.uint8).expand(3, 1, 5)
        weights = torch.tensor([math.exp(-0.5 * (i / 0.5) ** 2) for i in range(-2, 3)])
        weights /= weights.sum()
        # The mirrored neighbour of the last pixel is the one before it.
        assert abs(gaussian_blur(row, 0.5)[0, 0, 4].item() - 240 * weights[2].item()) <= 0.51
