"""`dist-seg predict` as a user calls it: a model of the user's own, and instances, on one and on two ranks."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.commands import dist_seg, environment, tiny_training

NETS = """
from torch import nn

def build(config, num_classes):
    return nn.Conv2d(3, num_classes, 3, padding=1)
"""


def installed(*arguments: object, cwd: Path, nproc: int = 1) -> subprocess.CompletedProcess[str]:
    """Runs the command as its installed script does: the working directory is not on Python's path by itself."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(nproc)] if nproc > 1 else []
    return subprocess.run(
        [sys.executable, "-P", *torchrun, "-m", "dist_seg", *map(str, arguments)],
        cwd=cwd,
        env=environment() | {"PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def workplace(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's module `my_nets` and `run`, trained with it."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "my_nets.py").write_text(NETS)
    own = ["model.name=my_nets:build", "data.loader=torch", "data.num_threads=0", "train.max_steps=2"]
    result = installed(*tiny_training(synthetic_shards, folder / "run", own), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three pictures."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    for name in ("a.png", "b.png", "sub/c.png"):
        Image.fromarray(noise).save(folder / name)
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_pictures_are_never_overwritten(workplace: Path, pictures: Path) -> None:
    before = contents(pictures)
    result = dist_seg("predict", workplace / "run", pictures, "--out", pictures, cwd=workplace)
    assert result.returncode == 2
    assert f"--out {pictures}: is the folder of the pictures" in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(pictures) == before


@pytest.mark.parametrize(("picture", "out"), [("", "masks"), ("a.jpg", "")])
def test_masks_that_lie_where_the_outputs_would_go_are_kept(
    workplace: Path, pictures: Path, picture: str, out: str
) -> None:
    with Image.open(pictures / "a.png") as image:
        image.save(pictures / "a.jpg")
        (pictures / "a.png").unlink()
        (pictures / out).mkdir(exist_ok=True)
        image.convert("L").save(pictures / out / "a.png")
    before = contents(pictures)
    result = dist_seg("predict", workplace / "run", pictures / picture, "--out", pictures / out, cwd=workplace)
    assert result.returncode == 2
    assert f"{pictures / out / 'a.png'} would be overwritten, but it is not what predict wrote there" in result.stderr
    assert f"such as {pictures / out}_predicted" in result.stderr
    assert contents(pictures) == before


def test_outputs_below_the_pictures_stay_the_same_when_they_are_made_again(workplace: Path, pictures: Path) -> None:
    found = []
    for _ in range(2):
        result = dist_seg("predict", workplace / "run", pictures, "--out", pictures / "masks", cwd=workplace)
        assert result.returncode == 0, result.stderr
        assert "3 pictures segmented: " in result.stdout
        found.append(contents(pictures / "masks"))
    assert found[0] == found[1]


def test_output_that_cannot_be_written_ends_with_2_and_names_it(workplace: Path, pictures: Path) -> None:
    result = dist_seg("predict", workplace / "run", pictures, "--out", pictures / "a.png" / "masks", cwd=workplace)
    assert result.returncode == 2
    assert "a.png/masks/a.png: cannot be written: a file lies where a folder is needed" in result.stderr
    assert "Traceback" not in result.stderr


def test_ranks_share_the_pictures_out_and_give_the_masks_of_one(workplace: Path, pictures: Path) -> None:
    for nproc in (1, 2):
        result = installed(
            "predict", "run", pictures, "--out", pictures.parent / f"out{nproc}", cwd=workplace, nproc=nproc
        )
        assert result.returncode == 0, result.stderr
        assert "3 pictures segmented" in result.stdout
    outs = [contents(pictures.parent / f"out{nproc}") for nproc in (1, 2)]
    one, two = ({name: digest for name, digest in out.items() if not name.startswith(".predicted")} for out in outs)
    assert len(one) == 7
    assert one == two


def test_mistake_is_told_once_by_all_ranks_together(workplace: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = ["predict", "run", pictures, "--out", tmp_path / "out", "--checkpoint", 77]
    result = installed(*arguments, cwd=workplace, nproc=2)
    told = [line for line in result.stderr.splitlines() if line.startswith("dist-seg: ")]
    assert told == ["dist-seg: run: no checkpoint '77'; there are: best, last, 2"]


@pytest.fixture(scope="module")
def instance_run(instance_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of instances that has learnt nothing: it finds many objects, hardly any of them well."""
    run = tmp_path_factory.mktemp("predict_instances") / "run"
    heads = ["mask_rcnn.fpn_channels=16", "mask_rcnn.box_channels=32", "mask_rcnn.mask_channels=16"]
    few = ["mask_rcnn.roi_samples=32", "mask_rcnn.score_threshold=0.0", "mask_rcnn.detections_per_image=20"]
    own = [*heads, *few, "data.loader=torch", "data.num_threads=0", "train.max_steps=2"]
    result = dist_seg(*tiny_training(instance_shards, run, own), cwd=run.parent)
    assert result.returncode == 0, result.stderr
    return run


def test_instances_are_written_as_ids_overlays_and_results_that_do_not_depend_on_the_ranks(
    instance_run: Path, pictures: Path
) -> None:
    annotations = pictures.parent / "annotations.json"
    images = [{"id": 7 + i, "file_name": name} for i, name in enumerate(("a.png", "b.png", "sub/c.png"))]
    annotations.write_text(json.dumps({"images": images}))
    outs = [pictures.parent / "out1", pictures.parent / "out2"]
    for nproc, out in enumerate(outs, start=1):
        options = ["--out", out, "--images", annotations, "--min-score", 0, "--window", 64]
        result = installed("predict", instance_run, pictures, *options, cwd=pictures.parent, nproc=nproc)
        assert result.returncode == 0, result.stderr
        assert "3 pictures segmented, " in result.stdout
    results, of_two = (json.loads((out / "predictions.json").read_text()) for out in outs)
    assert [(r["image_id"], r["segmentation"]) for r in results] == [(r["image_id"], r["segmentation"]) for r in of_two]
    # The ranks have other numbers of threads.
    assert np.allclose([r["score"] for r in results], [r["score"] for r in of_two], atol=1e-5)
    masks = ("a.png", "b.png", "sub/c.png")
    assert [(outs[0] / name).read_bytes() for name in masks] == [(outs[1] / name).read_bytes() for name in masks]
    assert {(r["image_id"], r["file_name"]) for r in results} == {(i["id"], i["file_name"]) for i in images}
    # The classes' ids in the raw data set, which the checkpoint keeps.
    assert {r["category_id"] for r in results} <= {1, 2, 3, 4, 5}
    first = [r for r in results if r["file_name"] == "a.png"]
    with Image.open(outs[0] / "a.png") as ids:
        assert ids.size == (50, 40)
        assert 0 < np.asarray(ids).max() <= len(first)
    assert all(r["segmentation"]["size"] == [40, 50] for r in first)


def test_ids_for_results_are_refused_where_there_are_no_instances(workplace: Path, pictures: Path) -> None:
    options = ["--out", pictures.parent / "out", "--images", pictures / "a.png"]
    result = dist_seg("predict", workplace / "run", pictures, *options, cwd=workplace)
    assert result.returncode == 2
    assert "--images: only gives ids to the results of instances" in result.stderr


def test_annotations_that_give_the_ids_are_never_written_over(instance_run: Path, pictures: Path) -> None:
    out = pictures.parent / "found"
    out.mkdir()
    annotations = out / "predictions.json"
    text = json.dumps({"images": [{"id": 1, "file_name": "a.png"}]})
    annotations.write_text(text)
    options = ["--out", out, "--images", annotations]
    result = dist_seg("predict", instance_run, pictures / "a.png", *options, cwd=pictures.parent)
    assert result.returncode == 2
    assert "is what --images names and would be overwritten" in result.stderr
    assert annotations.read_text() == text
