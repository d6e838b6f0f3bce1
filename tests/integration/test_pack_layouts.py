"""`pack` on every layout of public data sets and labelling tools, as a user calls it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.runtime.plural import count_of
from tests.integration.commands import dist_seg
from tests.loader_cases import encode
from tests.unit.data.format_trees import LAYOUTS, Sample


@pytest.fixture
def samples() -> dict[str, Sample]:
    """Twelve pictures of 24x32; half of each is class 0, half class 1, and one pixel ignored."""
    ids = np.repeat(np.arange(2, dtype=np.uint8), 16)[None].repeat(24, axis=0)
    ids[0, 0] = 255
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return {f"p{i}": Sample(".png", encode(picture, "PNG"), ids) for i in range(12)}


def _manifest(out: Path) -> dict[str, dict[str, dict[str, object]]]:
    return json.loads((out / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("layout", "arguments", "words"),
    [
        ("voc", ["voc", "raw"], "21 classes (background, aeroplane,"),
        ("voc of cvat", ["voc", "raw"], "classes from raw/labelmap.txt"),
        ("voc", ["voc", "raw", "--list", "train", "train", "--masks", "SegmentationClass"], "21 classes (background,"),
        ("cityscapes", ["cityscapes", "raw"], "19 classes (road, sidewalk,"),
        ("ade20k", ["ade20k", "raw"], "150 classes (wall, building,"),
        ("coco-panoptic", ["coco-panoptic", "raw"], "7 classes (c1, c13,"),
        (
            "coco-panoptic",
            [
                *("coco-panoptic", "raw", "--split", "train", "train2017", "annotations/panoptic_train2017.json"),
                "annotations/panoptic_train2017",
            ],
            "7 classes (c1, c13,",
        ),
        ("coco-stuff, stuffthingmaps", ["coco-stuff", "raw", "--numbers", "stuffthingmaps"], "171 classes (person,"),
        (
            "coco-stuff, category-ids",
            [
                *("coco-stuff", "raw", "--numbers", "category-ids", "--categories", "raw/categories.json"),
                *("--split", "train", "train2017", "semantic/train2017"),
            ],
            "classes from raw/categories.json",
        ),
        ("labelme", ["labelme", "raw", "--unlabelled", "ignore", "--split", "train", "--val", "0"], "9 classes (c0,"),
    ],
)
def test_a_layout_is_packed_and_verified(
    tmp_path: Path, samples: dict[str, Sample], layout: str, arguments: list[str], words: str
) -> None:
    LAYOUTS[layout].write(tmp_path / "raw", samples)
    result = dist_seg("pack", *arguments, "out", "--workers", 1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert words in result.stdout and "train    12 samples in 1 shard" in result.stdout
    split = _manifest(tmp_path / "out")["splits"]["train"]
    counts = split["class_pixels"]
    assert isinstance(counts, list)
    assert (counts[:2], sum(counts[2:]), split["ignored_pixels"]) == ([12 * 383, 12 * 384], 0, 12)
    assert dist_seg("verify", "out", cwd=tmp_path).returncode == 0


def test_labelme_is_divided_and_may_be_packed_again_into_its_own_folder(
    tmp_path: Path, samples: dict[str, Sample]
) -> None:
    LAYOUTS["labelme"].write(tmp_path / "raw", samples)
    command = ["pack", "labelme", ".", "out", "--val", 0.4]
    first, again = (dist_seg(*command, cwd=tmp_path / "raw") for _ in range(2))
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert "there already" not in first.stdout and "2 shards were there already" in again.stdout
    splits = _manifest(tmp_path / "raw" / "out")["splits"]
    assert set(splits) == {"train", "val"}


def test_what_cannot_be_packed_is_named_and_left_out_where_that_is_allowed(
    tmp_path: Path, samples: dict[str, Sample]
) -> None:
    LAYOUTS["voc"].write(tmp_path / "raw", samples)
    mask = np.zeros((24, 32), np.uint8)
    mask[5, 6] = 77
    Image.fromarray(mask).save(tmp_path / "raw" / "SegmentationClass" / "p3.png")
    (tmp_path / "raw" / "JPEGImages" / "p5.png").unlink()
    listed = "raw/ImageSets/Segmentation/train.txt:6: there is no image JPEGImages/p5"
    command = ["pack", "voc", "raw", "out"]
    refused = dist_seg(*command, cwd=tmp_path)
    assert refused.returncode == 2 and listed in refused.stderr and "Traceback" not in refused.stderr
    result = dist_seg(*command, "--skip-bad", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"left out: {listed}" in result.stderr
    assert "left out: raw/SegmentationClass/p3.png: class id 77 at (x=6, y=5)" in result.stderr
    assert "10 samples in 1 shard, 2 left out" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["coco-stuff", "raw", "out"], 2, "the following arguments are required: --numbers"),
        (["voc", "raw", "out", "--val", "0.2"], 2, "--val, --group-by and --split have no effect"),
        (["voc", "raw", "out", "--list", "train", "x"], 2, "Segmentation/x.txt: there is no such list"),
        (["coco-panoptic", "raw", "out", "--merge-things"], 2, "no annotations/panoptic_NAME.json"),
        (["labelme", "raw", "out"], 2, "holds no JSON files; is this a folder of LabelMe files?"),
        (["ade20k", "nowhere", "out"], 2, "nowhere: no such folder"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(
    tmp_path: Path, samples: dict[str, Sample], arguments: list[str], code: int, words: str
) -> None:
    LAYOUTS["voc"].write(tmp_path / "raw", samples)
    result = dist_seg("pack", *arguments, cwd=tmp_path)
    assert (result.returncode, words in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("layout", ["folder", "instances", "labels", "labelme"])
def test_names_of_files_that_are_not_utf8_are_packed_and_told(tmp_path: Path, layout: str) -> None:
    masks = tmp_path / "masks" / ("cat" if layout == "labels" else "")
    for folder in (tmp_path / "images", masks):
        folder.mkdir(parents=True)
    picture = encode(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8), "PNG")
    mask = encode(np.eye(24, 32, dtype=np.uint8), "PNG")
    shape = {"label": "cat", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
    labels = {"shapes": [shape], "imagePath": "good.png", "imageHeight": 24, "imageWidth": 32}
    try:
        for name in (b"good", b"good\xff", b"bad\xff"):
            stem = os.fsdecode(name)
            is_good = name.startswith(b"good")
            (tmp_path / "images" / f"{stem}.png").write_bytes(picture if is_good else b"")
            (masks / f"{stem}.png").write_bytes(mask)
        (masks / os.fsdecode(b"lone\xff.png")).write_bytes(mask)
        (tmp_path / "images" / "good.json").write_text(json.dumps(labels))
        (tmp_path / "images" / os.fsdecode(b"bad\xff.json")).write_text(json.dumps({**labels, "imagePath": "\ud800"}))
    except OSError:
        pytest.skip("the file system takes no such names")
    folders = ["images"] if layout == "labelme" else ["images", "masks"]
    arguments = ["pack", layout, *folders, "out", "--skip-bad", "--val", "0"]
    packed = dist_seg(*arguments, cwd=tmp_path)
    assert packed.returncode == 0, packed.stderr
    assert r"bad\udcff" in packed.stderr
    good = 1 if layout == "labelme" else 2
    left_out = 3 if layout == "labelme" else 2
    assert f"{count_of(good, 'sample')} in 1 shard, {left_out} left out" in packed.stdout
    if layout in ("folder", "instances"):
        assert r"for example images/bad\udcff.json" in packed.stdout
    assert dist_seg("verify", "out", cwd=tmp_path).returncode == 0
    assert "1 shard was there already" in dist_seg(*arguments, cwd=tmp_path).stdout
