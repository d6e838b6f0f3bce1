"""Gathering in one process; tests/distributed has several."""

import pytest

from dist_seg.metrics.instances import gather_images
from tests.unit.metrics.instance_scenes import scenes


@pytest.mark.parametrize("piece_bytes", [1, 5_000, 10_000_000])
def test_images_come_back_unchanged_and_by_key(piece_bytes: int) -> None:
    images = scenes(7, seed=0, num_classes=3, max_predictions=10)
    assert gather_images(images[::-1], piece_bytes=piece_bytes) == images


def test_no_image_is_no_image() -> None:
    assert gather_images([]) == []


def test_image_that_comes_twice_is_noticed() -> None:
    images = scenes(3, seed=0, num_classes=1)
    with pytest.raises(AssertionError, match="image-001 was scored twice"):
        gather_images([*images, images[1]])
