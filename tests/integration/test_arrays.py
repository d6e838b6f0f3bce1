"""Images of many channels and 16 bits from raw files to predictions, by the commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.array_cases import bands, noise, tiff, write_folder
from tests.integration.commands import dist_seg, tiny_training

pytest.importorskip("tifffile", reason="needs tifffile (the tiff extra)")

NETS = """
from torch import nn

def build(config, num_classes, in_channels):
    return nn.Conv2d(in_channels, num_classes, 1)
"""
OWN = [
    "model.name=my_array_nets:build",
    "data.loader=torch",
    "data.num_threads=0",
    "augment.crop_height=48",
    "augment.crop_width=64",
    "augment.brightness=0.1",
    "train.max_steps=24",
    "train.ema_decay=0",
    "optim.lr=0.5",
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw TIFFs of eight pages, of which two tell the classes apart; packed; and a run on them."""
    folder = tmp_path_factory.mktemp("arrays")
    (folder / "my_array_nets.py").write_text(NETS)
    scenes = [bands(seed) for seed in range(12)]
    write_folder(
        folder / "raw",
        [tiff(values, pages=True, compression="lzw") for values, _ in scenes],
        [mask for _, mask in scenes],
    )
    packed = dist_seg("pack", "folder", "raw/images", "raw/masks", "packed", "--val", 0.25, cwd=folder)
    assert packed.returncode == 0, packed.stderr
    trained = dist_seg(*tiny_training(folder / "packed", folder / "run", OWN), cwd=folder)
    assert trained.returncode == 0, trained.stderr
    return folder


def test_what_two_of_eight_channels_show_is_learnt(workplace: Path) -> None:
    result = json.loads((workplace / "run/result.json").read_text())
    assert result["miou"] > 0.95
    settled = yaml.safe_load((workplace / "run/config.yaml").read_text())["data"]
    assert (settled["image_dtype"], settled["image_channels"], settled["channels"]) == ("uint16", 8, list(range(8)))
    assert settled["scaling"] == "percentiles"
    assert len(settled["mean"]) == len(settled["value_high"]) == 8
    assert Image.open(workplace / "run/pictures.png").mode == "RGB"


def test_what_other_channels_do_not_show_is_not(workplace: Path) -> None:
    chosen = [*OWN, "data.channels=[0, 3, 5]", "train.max_steps=12"]
    result = dist_seg(*tiny_training(workplace / "packed", workplace / "blind", chosen), cwd=workplace)
    assert result.returncode == 0, result.stderr
    assert json.loads((workplace / "blind/result.json").read_text())["miou"] < 0.5


def test_the_same_command_again_finds_its_run_complete(workplace: Path) -> None:
    again = dist_seg(*tiny_training(workplace / "packed", workplace / "run", OWN), cwd=workplace)
    assert again.returncode == 0, again.stderr
    other = dist_seg(
        *tiny_training(workplace / "packed", workplace / "run", [*OWN, "data.channels=[4]"]), cwd=workplace
    )
    assert other.returncode == 2
    assert "data.channels: [0, 1, 2, 3, 4, 5, 6, 7] there, [4] here" in other.stderr


def test_evaluation_gives_the_score_again_and_only_on_such_images(workplace: Path, synthetic_shards: Path) -> None:
    scored = dist_seg("eval", "run", cwd=workplace)
    assert scored.returncode == 0, scored.stderr
    first, second = (json.loads((workplace / f"run/{name}.json").read_text()) for name in ("result", "eval-val"))
    assert first["miou"] == second["miou"]
    other = dist_seg("eval", "run", "--data", synthetic_shards, "data.class_map={}", cwd=workplace)
    assert other.returncode == 2
    assert "holds pictures of 8 bits" in other.stderr
    assert "trained on 16 bits and 8 channels" in other.stderr


def test_prediction_reads_files_as_packing_does(workplace: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    values, mask = bands(77)
    (files / "planes.tif").write_bytes(tiff(values, planar=True, tile=(16, 16)))
    (files / "seven.tif").write_bytes(tiff(noise("uint16", 7)))
    Image.fromarray(noise("uint8", 3)).save(files / "rgb.png")
    result = dist_seg("predict", "run", files, "--out", tmp_path / "out", cwd=workplace)
    assert result.returncode == 1
    assert f"{files / 'seven.tif'}: is 16 bits and 7 channels; the model was trained on 16 bits and 8" in result.stderr
    assert f"{files / 'rgb.png'}: is a picture of 8-bit RGB or grey; the model was trained on 16 bits" in result.stderr
    found = np.asarray(Image.open(tmp_path / "out/planes.png"))
    assert (found == mask).mean() > 0.95
    assert Image.open(tmp_path / "out/planes_overlay.png").size == (64, 48)


def test_what_the_network_is_fed_can_be_looked_at(workplace: Path, tmp_path: Path) -> None:
    sheets = {
        "preview": ["preview", "data.shards=packed", *OWN, "train.global_batch=4", "train.micro_batch=2"],
        "inspect": ["inspect", "packed"],
    }
    for name, arguments in sheets.items():
        out = tmp_path / f"{name}.png"
        result = dist_seg(*arguments, "--out", out, cwd=workplace)
        assert result.returncode == 0, result.stderr
        assert np.asarray(Image.open(out)).std() > 10
    refused = dist_seg("preview", "data.shards=packed", *OWN, "augment.hue_deg=5", "--out", out, cwd=workplace)
    assert refused.returncode == 2
    assert "augment.hue_deg=5.0: the data set holds arrays of 16 bits and 8 channels" in refused.stderr


def test_objects_in_16_bit_grey_are_trained_and_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, masks = [], []
    for _ in range(5):
        ids = np.zeros((64, 64), np.uint8)
        for number in range(1, 4):
            y, x = rng.integers(0, 44, 2)
            ids[y : y + 16, x : x + 16] = number
        values = rng.integers(200, 400, (64, 64, 1), dtype=np.uint16)
        images.append(tiff(values + 3000 * (ids[..., None] > 0).astype(np.uint16)))
        masks.append(ids)
    write_folder(tmp_path / "raw", images, masks)
    packed = dist_seg("pack", "instances", "raw/images", "raw/masks", "packed", "--val", 0.25, cwd=tmp_path)
    assert packed.returncode == 0, packed.stderr
    heads = ["mask_rcnn.fpn_channels=16", "mask_rcnn.box_channels=32", "mask_rcnn.mask_channels=16"]
    few = ["mask_rcnn.roi_samples=32", "mask_rcnn.score_threshold=0.0", "mask_rcnn.detections_per_image=20"]
    own = [*heads, *few, "train.max_steps=1"]
    trained = dist_seg(*tiny_training(tmp_path / "packed", tmp_path / "run", own), cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    found = dist_seg("predict", "run", "raw/images/0.tif", "--out", "out", "--min-score", 0, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())) > 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cmyk", "is CMYK; convert it to RGB"),
        ("palette", "has a palette; save it as RGB"),
        ("alpha", "has transparent pixels"),
        ("float", "must be unsigned whole numbers of 8 or 16 bits"),
    ],
)
def test_what_packing_refuses_is_named(tmp_path: Path, name: str, reason: str) -> None:
    values = noise("uint16", 4)
    data = {
        "cmyk": lambda: tiff(values, photometric="separated"),
        "palette": lambda: tiff(values[..., :1], photometric="palette", colormap=np.zeros((3, 65536), np.uint16)),
        "alpha": lambda: tiff(values, photometric="rgb", extrasamples=["unassalpha"]),
        "float": lambda: tiff(values.astype(np.float32)),
    }[name]()
    good = tiff(values)
    write_folder(tmp_path, [good, data, good], [np.zeros((20, 30), np.uint8)] * 3)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    result = dist_seg("pack", "folder", "images", "masks", "packed", cwd=tmp_path)
    assert result.returncode == 2
    assert "images/1.tif" in result.stderr
    assert reason in result.stderr


def test_turned_images_are_packed_upright(tmp_path: Path) -> None:
    values = noise("uint16", 2)
    turned = tiff(values, extratags=[(274, 3, 1, 6, True)])
    upright = np.zeros((30, 20), np.uint8)
    write_folder(tmp_path / "good", [turned] * 2, [upright] * 2)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    arguments = ["--classes", "classes.txt"]
    packed = dist_seg("pack", "folder", "good/images", "good/masks", "packed", *arguments, cwd=tmp_path)
    assert packed.returncode == 0, packed.stderr
    write_folder(tmp_path / "bad", [turned] * 2, [upright.T] * 2)
    refused = dist_seg("pack", "folder", "bad/images", "bad/masks", "other", *arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert "upright (was the mask drawn on the stored picture" in refused.stderr
