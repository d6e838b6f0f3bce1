"""Mask R-CNN learns a handful of pictures by heart, through the real loader, trainer and evaluation."""

from pathlib import Path
from typing import cast

import pytest

from dist_seg.data.formats.synthetic import SyntheticInstances, SyntheticSource
from dist_seg.data.packing.pack import pack
from dist_seg.distributed.world import World
from tests.distributed.ranks import run_ranks
from tests.distributed.training import train_on

pytestmark = pytest.mark.slow

SETTINGS = [
    "task=instance",
    "data.val_split=train",
    "augment.crop_height=128",
    "augment.crop_width=128",
    "augment.scale_min=1",
    "augment.scale_max=1",
    "augment.flip_probability=0",
    "augment.rotate_deg=0",
    "augment.brightness=0",
    "model.name=mask_rcnn",
    "model.encoder=mobilenetv3_small_100",
    "model.norm=group",
    "mask_rcnn.head_norm=group",
    "mask_rcnn.fpn_channels=64",
    "mask_rcnn.box_channels=128",
    "mask_rcnn.mask_channels=64",
    "mask_rcnn.mask_convs=2",
    "mask_rcnn.anchor_sizes=[16, 32, 64, 128, 256]",
    "mask_rcnn.rpn_pre_nms_train=200",
    "mask_rcnn.rpn_post_nms_train=200",
    "mask_rcnn.roi_samples=64",
    "mask_rcnn.roi_positive_fraction=0.5",
    "optim.lr=0.002",
    "optim.schedule=cosine",
    "optim.clip_norm=5",
    "train.global_batch=4",
    "train.micro_batch=4",
    "train.max_steps=140",
    "train.ema_decay=0",
    "telemetry.digest_interval_steps=0",
]


def learn(world: World, shards: str, run_dir: str) -> dict[str, float]:
    outcome = train_on(world, shards, run_dir, SETTINGS)
    assert outcome.result is not None and outcome.result.images == 4
    return dict(outcome.result.headline)


def test_four_pictures_are_learnt_by_heart(tmp_path: Path) -> None:
    scenes = SyntheticSource(num_train=4, num_val=1, height=128, width=128, seed=7)
    pack(SyntheticInstances(scenes=scenes), tmp_path / "shards")
    paths = {"shards": str(tmp_path / "shards"), "run_dir": str(tmp_path / "run")}
    (scores,) = cast(list[dict[str, float]], run_ranks(f"{__name__}:learn", 1, tmp_path, **paths))
    assert scores["mask_ap50"] > 0.95
    assert scores["mask_ap"] > 0.6
    assert scores["miou"] > 0.8
