"""Labels that overlap, as a user has them: packed, trained on, scored, looked at and predicted."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.data.formats.synthetic import SyntheticLabels, SyntheticSource
from tests.integration.commands import dist_seg, tiny_training

CLASSES = ("cross", "disk", "ring", "square", "triangle")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images/` and `masks/CLASS/`."""
    folder = tmp_path_factory.mktemp("raw")
    source = SyntheticLabels(scenes=SyntheticSource(num_train=24, num_val=0, height=48, width=64))
    for ref in source.samples():
        sample = source.load(ref)
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / f"{ref.key}.jpg").write_bytes(sample.image)
        for name, layer in zip(source.class_names, sample.mask, strict=True):
            (folder / "masks" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(layer * np.uint8(255)).save(folder / "masks" / name / f"{ref.key}.png")
    return folder


@pytest.fixture(scope="module")
def run(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    packed = dist_seg("pack", "labels", raw / "images", raw / "masks", folder / "shards", "--val", 0.3, cwd=folder)
    assert packed.returncode == 0, packed.stderr
    assert f"classes by the names of folders: {', '.join(CLASSES)}" in packed.stdout
    trained = dist_seg(*tiny_training(folder / "shards", folder / "run", ["loss.dice=1"]), cwd=folder)
    assert trained.returncode == 0, trained.stderr
    return folder / "run"


def test_the_run_leaves_a_result_by_label_a_report_and_pictures(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    assert tuple(result["label_counts"]) == CLASSES
    assert "confusion_matrix" not in result
    page = (run / "report.html").read_text()
    assert "Pictures" in page
    assert "confusion matrix" not in page
    assert Image.open(run / "pictures.png").width > 480


def test_eval_gives_the_numbers_of_the_training(run: Path) -> None:
    evaluated = dist_seg("eval", run, "data.loader=torch", cwd=run.parent)
    assert evaluated.returncode == 0, evaluated.stderr
    result, again = (json.loads((run / name).read_text()) for name in ("result.json", "eval-val.json"))
    assert again["label_counts"] == result["label_counts"]
    assert again["miou_interval"] == result["miou_interval"]


def test_the_threshold_decides_what_is_there(run: Path) -> None:
    evaluated = dist_seg("eval", run, "eval.label_threshold=0", "--out", run / "all.json", cwd=run.parent)
    assert evaluated.returncode == 0, evaluated.stderr
    counts = json.loads((run / "all.json").read_text())["label_counts"].values()
    assert all(count["false_negatives"] == count["true_negatives"] == 0 for count in counts)


def test_predict_writes_a_page_for_each_label_whole_and_in_windows(run: Path, raw: Path, tmp_path: Path) -> None:
    picture = Image.open(next((raw / "images").iterdir())).resize((200, 150))
    (tmp_path / "in").mkdir()
    picture.save(tmp_path / "in" / "a.png")
    for options in ([], ["--window", 64]):
        out = tmp_path / f"out{len(options)}"
        done = dist_seg("predict", run, tmp_path / "in", "--out", out, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in out.glob("[!.]*")) == ["a.tif", "a_overlay.png", "legend.png"]
        with Image.open(out / "a.tif") as layers:
            assert (layers.n_frames, layers.size, layers.mode) == (len(CLASSES), (200, 150), "L")
            assert set(np.unique(np.asarray(layers))) <= {0, 255}


def test_inspect_draws_the_layers(run: Path, tmp_path: Path) -> None:
    done = dist_seg("inspect", run.parent / "shards", "--out", tmp_path / "sheet.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "multilabel, 5 classes" in done.stdout
    manifest = json.loads((run.parent / "shards" / "manifest.json").read_text())["splits"]["train"]
    images = sum(shard["samples"] for shard in manifest["shards"])
    share = 100 * manifest["class_pixels"][0] / (images * 48 * 64)  # of all pixels: labels overlap
    assert re.search(rf"0 +cross +{share:.2f}%", done.stdout)
    assert Image.open(tmp_path / "sheet.png").width > 480


def test_settings_that_are_for_exclusive_classes_are_refused(run: Path, tmp_path: Path) -> None:
    weighted = tiny_training(run.parent / "shards", tmp_path / "run", ["loss.class_weights=inverse_log"])
    done = dist_seg(*weighted, cwd=tmp_path)
    assert done.returncode == 2
    assert "loss.class_weights=inverse_log" in done.stderr
