"""`dist-seg preview`: what is drawn is what training is fed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dist_seg.config.schema import AugmentConfig, DataConfig
from dist_seg.data.codecs.class_ids import decode_class_ids
from dist_seg.data.codecs.decode import decode_image
from dist_seg.data.loading.normalize import normalization
from dist_seg.tasks.classes import ClassInfo
from dist_seg.training.preview import difference, fed_samples
from tests.integration.commands import dist_seg
from tests.loader_cases import AUGMENTATIONS, NUM_CLASSES, PackedData, config, scene_sample, train, write_dataset

CLASSES = ClassInfo(
    names=tuple(f"class{i}" for i in range(NUM_CLASSES)), palette=((9, 9, 9),) * NUM_CLASSES, ignore_index=255
)
STILL = AugmentConfig(crop_height=96, crop_width=128, scale_min=1.0, scale_max=1.0, flip_probability=0.0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    samples = [scene_sample(i, height=96, width=128, form="png") for i in range(6)]
    return write_dataset(tmp_path_factory.mktemp("scenes"), samples)


def test_without_augmentation_the_pictures_are_those_that_were_packed(scenes: PackedData) -> None:
    wanted = {s.key: s for s in (scene_sample(i, height=96, width=128, form="png") for i in range(6))}
    cfg = config(STILL)
    for batch in train(scenes, cfg, [(0, 0)]):
        for fed in fed_samples(batch, "semantic", CLASSES, normalization(cfg.data)):
            assert np.array_equal(fed.image, decode_image(wanted[fed.key].image))
            assert np.array_equal(fed.target, decode_class_ids(wanted[fed.key].target))


def test_colours_beyond_white_are_cut(scenes: PackedData) -> None:
    batch = train(scenes, config(AUGMENTATIONS["brightness"]), [(0, 0)])[0]
    bright = type(batch)(**{**vars(batch), "images": torch.full_like(batch.images, 50.0)})
    fed = next(fed_samples(bright, "semantic", CLASSES, normalization(DataConfig())))
    assert (fed.image == 255).all()


def test_a_difference_is_measured_in_grey_levels_and_pixels(scenes: PackedData) -> None:
    cfg = config(STILL)
    first, second, *_ = fed_samples(train(scenes, cfg, [(0, 0)])[0], "semantic", CLASSES, normalization(cfg.data))
    assert (difference(first, first).grey_levels, difference(first, first).equal_target) == (0.0, 1.0)
    apart = difference(first, second)
    assert apart.grey_levels == pytest.approx(np.abs(first.image.astype(float) - second.image).mean())
    assert 0 < apart.equal_target < 1


@pytest.mark.parametrize("shards", ["synthetic_shards", "instance_shards"])
def test_a_sheet_of_both_loaders_says_how_far_they_are_apart(
    shards: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("nvidia.dali")
    (tmp_path / "mine.yaml").write_text("augment:\n  rotate_deg: 10\n  crop_height: 64\n  crop_width: 64\n")
    data = request.getfixturevalue(shards)
    done = dist_seg(
        *("preview", "mine.yaml", f"data.shards={data}", "--samples", 5, "--both-loaders", "--out", "out.png"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "grey levels apart" in line]
    assert len(lines) == 5
    assert all("64x64" in line for line in lines)
    assert Image.open(tmp_path / "out.png").width > 900


def test_more_samples_than_an_epoch_has_are_those_of_the_next_ones(synthetic_shards: Path, tmp_path: Path) -> None:
    own = ["data.loader=torch", "data.num_threads=0", "augment.crop_height=64", "augment.crop_width=64"]
    done = dist_seg("preview", f"data.shards={synthetic_shards}", *own, "--samples", 50, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("50 samples: preview.png\n")  # of 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "sheet.gif"], "must end in .png"),
        (["--samples", "0"], "--samples 0: give at least 1"),
        (["task=instance"], "is packed for the task 'semantic'"),
        (["augment.rotatedeg=3"], "did you mean|rotate_deg"),
    ],
)
def test_mistakes_are_told(synthetic_shards: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = dist_seg("preview", f"data.shards={synthetic_shards}", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert any(part in done.stderr for part in message.split("|"))
    assert list(tmp_path.iterdir()) == []
