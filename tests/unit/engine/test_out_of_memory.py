"""What is said where memory runs out."""

import dataclasses

import pytest
import torch

from dist_seg.config.schema import AugmentConfig, Config, TrainConfig
from dist_seg.distributed.world import World
from dist_seg.engine.out_of_memory import OutOfMemoryError, memory_explained

CONFIG = Config(
    task="instance",
    augment=AugmentConfig(crop_height=64, crop_width=96),
    train=TrainConfig(global_batch=16, micro_batch=4),
)
WORLD = World(rank=2, size=3, local_size=3)


def explained(config: Config, error: Exception) -> str:
    with pytest.raises(OutOfMemoryError) as raised, memory_explained(config, WORLD, lambda: "forward of step 3"):
        raise error
    return str(raised.value)


def test_rank_place_sizes_and_settings_are_named() -> None:
    text = explained(dataclasses.replace(CONFIG, task="semantic"), MemoryError("no more"))
    for part in (
        "rank 2",
        "forward of step 3",
        "no more",
        "train.micro_batch=4",
        "crops of 96x64",
        "augment.crop_height",
    ):
        assert part in text
    assert "roi_samples" not in text


def test_of_instances_the_sampled_regions_are_named_too() -> None:
    assert "mask_rcnn.roi_samples" in explained(CONFIG, torch.OutOfMemoryError("CUDA out of memory"))


def test_an_allocation_that_the_cpu_refuses_is_known_as_one() -> None:
    with pytest.raises(OutOfMemoryError), memory_explained(CONFIG, WORLD, lambda: "forward of step 3"):
        torch.empty(10**15)


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ") as raised, memory_explained(CONFIG, WORLD, lambda: ""):
        raise RuntimeError("shapes differ")
    assert not isinstance(raised.value, OutOfMemoryError)
