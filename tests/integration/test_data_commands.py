"""`pack`, `verify` and `inspect` as a user calls them, on small data, in processes of their own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.data.formats.synthetic import draw_shapes
from tests.integration.commands import dist_seg

_READER = """
import threading
from dist_seg.data.formats.synthetic import SyntheticSource

def make_source(count):
    return SyntheticSource(num_train=int(count), num_val=0, height=32, width=32)

class Locked(SyntheticSource):
    def __init__(self):
        super().__init__(num_train=4, num_val=0, height=32, width=32)
        object.__setattr__(self, "lock", threading.Lock())
"""

_INSTANCE_READER = """
from dist_seg.data.formats.synthetic import SyntheticInstances, SyntheticSource

def make_source():
    return SyntheticInstances(scenes=SyntheticSource(num_train=6, num_val=0, height=32, width=32))
"""


def _picture(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _write_pairs(images: Path, masks: Path, stems: list[str]) -> None:
    for i, stem in enumerate(stems):
        rng = np.random.default_rng(i)
        _picture(images / f"{stem}.png", rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        _picture(masks / f"{stem}.png", rng.integers(0, 3, (24, 32), dtype=np.uint8))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """`images/` and `masks/` of 12 good samples."""
    _write_pairs(tmp_path / "images", tmp_path / "masks", [f"p{i:02d}" for i in range(12)])
    return tmp_path


@pytest.fixture
def spoilt(raw: Path) -> Path:
    """Three of the samples are bad: a coloured mask, half an image, no mask at all."""
    _picture(raw / "masks" / "p03.png", np.full((24, 32, 3), (1, 2, 3), np.uint8))
    half = (raw / "images" / "p05.png").read_bytes()[:200]
    (raw / "images" / "p05.png").write_bytes(half)
    (raw / "masks" / "p07.png").unlink()
    return raw


@pytest.fixture
def shards(synthetic_shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(synthetic_shards, tmp_path / "shards")
    return tmp_path / "shards"


def _manifest(folder: Path) -> dict[str, dict[str, dict[str, int]]]:
    document: dict[str, dict[str, dict[str, int]]] = json.loads((folder / "manifest.json").read_text())
    return document


def _refused(*arguments: object, cwd: Path) -> str:
    """What a command that ends with 2 says."""
    result = dist_seg(*arguments, cwd=cwd)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


class TestPackFolder:
    def test_workers_and_small_shards_then_again(self, raw: Path) -> None:
        command = ["pack", "folder", "images", "masks", "out", "--workers", 2, "--shard-mb", 0.02, "--val", 0.4]
        result = dist_seg(*command, cwd=raw)
        assert result.returncode == 0, result.stderr
        assert "3 classes (class_0, class_1, class_2)" in result.stdout
        splits = _manifest(raw / "out")["splits"]
        assert sum(len(split["shards"]) for split in splits.values()) > 2
        assert set(splits) == {"train", "val"}
        again = dist_seg(*command, cwd=raw)
        assert again.returncode == 0, again.stderr
        assert "shards were there already" in again.stdout

    def test_another_data_set_is_replaced_only_with_overwrite(self, raw: Path) -> None:
        command = ["pack", "folder", "images", "masks", "out", "--val", 0]
        assert dist_seg(*command, cwd=raw).returncode == 0
        (raw / "images" / "p00.png").unlink()
        (raw / "masks" / "p00.png").unlink()
        assert "--overwrite" in _refused(*command, cwd=raw)
        result = dist_seg(*command, "--overwrite", cwd=raw)
        assert result.returncode == 0, result.stderr
        assert "11 samples" in result.stdout

    def test_bad_samples_end_it_and_are_named(self, spoilt: Path) -> None:
        (spoilt / "images" / "p07.png").unlink()
        text = _refused("pack", "folder", "images", "masks", "out", "--val", 0, cwd=spoilt)
        assert "p03.png: a mask in colours" in text
        assert "p05.png: cannot be decoded" in text

    def test_skip_bad_leaves_every_kind_out_and_counts_it(self, spoilt: Path) -> None:
        result = dist_seg("pack", "folder", "images", "masks", "out", "--val", 0, "--skip-bad", cwd=spoilt)
        assert result.returncode == 0, result.stderr
        assert "9 samples in 1 shard, 3 left out" in result.stdout
        for name in ("p03.png: a mask in colours", "p05.png: cannot be decoded", "p07.png: has no mask"):
            assert name in result.stderr

    def test_files_of_others_are_refused_and_kept(self, raw: Path) -> None:
        (raw / "out").mkdir()
        (raw / "out" / "train-000000.tar").write_text("mine")
        text = _refused("pack", "folder", "images", "masks", "out", "--overwrite", cwd=raw)
        assert "not packed here (train-000000.tar)" in text
        assert (raw / "out" / "train-000000.tar").read_text() == "mine"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--split", "val", "--val", 0.1], "would both make a split called val"),
            (["--group-by", "p", "--val", 0], "--group-by 'p' has no effect"),
            (["--shard-mb", "nan"], "--shard-mb nan"),
            (["--shard-mb", 0], "--shard-mb 0"),
            (["--max-pixels", 700], "32x24 pixels are more than the allowed 700"),
        ],
    )
    def test_options_that_make_no_sense_are_refused(self, raw: Path, options: list[object], message: str) -> None:
        assert message in _refused("pack", "folder", "images", "masks", "out", *options, cwd=raw)


class TestPackOthers:
    def test_camvid_with_a_sequence_apart(self, tmp_path: Path) -> None:
        for split, stems in (("train", ["0001TP_1", "0006R0_1"]), ("val", ["0016E5_1"])):
            _write_pairs(tmp_path / split, tmp_path / f"{split}annot", stems)
        result = dist_seg("pack", "camvid", ".", "out", "--dev-prefix", "0006R0", "--workers", 1, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert set(_manifest(tmp_path / "out")["splits"]) == {"train", "dev", "val"}
        text = _refused("pack", "camvid", ".", "small", "--max-pixels", 700, cwd=tmp_path)
        assert "32x24 pixels are more than the allowed 700" in text

    def test_synthetic_of_the_size_asked_for(self, tmp_path: Path) -> None:
        options = ["--train-images", 5, "--val-images", 2, "--size", 32, 40, "--seed", 3]
        result = dist_seg("pack", "synthetic", "out", *options, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "5 samples" in result.stdout

    def test_a_reader_of_one_s_own(self, tmp_path: Path) -> None:
        (tmp_path / "my_reader.py").write_text(_READER)
        command = ["pack", "reader", "my_reader:make_source", "out", "--workers", 2, "--shard-mb", 0.005]
        result = dist_seg(*command, "--arguments", 6, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "6 samples" in result.stdout
        assert "change --arguments" in _refused(*command, cwd=tmp_path)
        assert "failed at" in _refused(*command, "--arguments", "six", cwd=tmp_path)

    def test_a_reader_that_no_worker_can_be_given(self, tmp_path: Path) -> None:
        (tmp_path / "my_reader.py").write_text(_READER)
        command = ["pack", "reader", "my_reader:Locked", "out", "--shard-mb", 0.005]
        assert "pack with --workers 1" in _refused(*command, "--workers", 2, cwd=tmp_path)
        result = dist_seg(*command, "--workers", 1, cwd=tmp_path)
        assert result.returncode == 0, result.stderr


def _write_coco(root: Path) -> None:
    """Four images with two objects each; annotation 5 has no area."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 24, "width": 32} for i in range(1, 5)]
    annotations = [
        {
            "id": 2 * i + j,
            "image_id": i,
            "category_id": 3,
            "segmentation": [[2, 2, 9, 2, 9, 9 + j, 2, 9 + j]],
            "bbox": [2, 2, 0 if (i, j) == (2, 1) else 7, 7 + j],
            "iscrowd": 0,
        }
        for i in range(1, 5)
        for j in range(2)
    ]
    for i in range(1, 5):
        _picture(root / "train2017" / f"{i}.png", np.full((24, 32, 3), 50 * i, np.uint8))
    document = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cell"}]}
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(document))


class TestInstances:
    def test_coco_is_packed_verified_and_inspected(self, tmp_path: Path) -> None:
        _write_coco(tmp_path)
        command = ["pack", "coco", ".", "out", "--workers", 2, "--shard-mb", 0.005]
        assert "instances_train2017.json: annotation 5 of 2.png: its box" in _refused(*command, cwd=tmp_path)
        result = dist_seg(*command, "--skip-bad", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "left out: annotations/instances_train2017.json: annotation 5 of 2.png" in result.stderr
        assert "7 objects, at most 2 per image, 1 annotation left out" in result.stdout
        assert dist_seg("verify", "out", cwd=tmp_path).returncode == 0
        inspected = dist_seg("inspect", "out", "--json", "counts.json", cwd=tmp_path)
        assert inspected.returncode == 0, inspected.stderr
        assert ["0", "cell", "7"] in [line.split() for line in inspected.stdout.splitlines()]
        assert json.loads((tmp_path / "counts.json").read_text())["splits"][0]["objects"]["skipped_annotations"] == 1

    def test_parts_of_coco_may_be_named(self, tmp_path: Path) -> None:
        _write_coco(tmp_path)
        part = ["--split", "dev", "train2017", "annotations/instances_train2017.json"]
        result = dist_seg("pack", "coco", ".", "out", *part, "--skip-bad", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert set(_manifest(tmp_path / "out")["splits"]) == {"dev"}

    def test_masks_of_object_ids(self, raw: Path) -> None:
        result = dist_seg("pack", "instances", "images", "masks", "out", "--val", 0.4, cwd=raw)
        assert result.returncode == 0, result.stderr
        assert "every value except 0 is an object of the class 'object'" in result.stdout
        assert "1 class (object)" in result.stdout
        assert set(_manifest(raw / "out")["splits"]) == {"train", "val"}

    def test_masks_of_object_ids_that_hold_classes(self, raw: Path) -> None:
        (raw / "numbers").write_text("1 cell\n")
        command = ["pack", "instances", "images", "masks", "out", "--val", 0, "--divisor", 2]
        assert "give a file with lines `number name` (--classes)" in _refused(*command, cwd=raw)
        result = dist_seg(*command, "--classes", "numbers", cwd=raw)
        assert result.returncode == 0, result.stderr
        assert "12 objects, at most 1 per image, 12 crowds" in result.stdout

    def test_cityscapes(self, tmp_path: Path) -> None:
        frame = "train/aachen/aachen_000000_000019"
        _picture(tmp_path / "leftImg8bit" / f"{frame}_leftImg8bit.png", np.zeros((24, 32, 3), np.uint8))
        _picture(tmp_path / "gtFine" / f"{frame}_gtFine_instanceIds.png", np.full((24, 32), 26001, np.uint16))
        result = dist_seg("pack", "cityscapes-instances", ".", "out", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "8 classes (person, rider, car" in result.stdout
        assert "1 sample in 1 shard; 1 object" in result.stdout

    def test_a_reader_of_instances_of_one_s_own(self, tmp_path: Path) -> None:
        (tmp_path / "my_reader.py").write_text(_INSTANCE_READER)
        command = ["pack", "reader", "my_reader:make_source", "out", "--workers", 2, "--shard-mb", 0.005]
        result = dist_seg(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert dist_seg("verify", "out", cwd=tmp_path).returncode == 0


class TestVerify:
    def test_what_was_packed_is_as_it_was_packed(self, shards: Path) -> None:
        result = dist_seg("verify", shards, cwd=shards.parent)
        assert (result.returncode, result.stdout) == (0, f"{shards}: as it was packed\n")

    @pytest.mark.parametrize("fault", ["flipped", "truncated", "missing", "extra"])
    def test_what_is_wrong_is_named_and_exits_1(self, shards: Path, fault: str) -> None:
        tar = shards / "train-000001.tar"
        data = bytearray(tar.read_bytes())
        match fault:
            case "flipped":
                data[700] ^= 1
                tar.write_bytes(data)
                expected = "train-000001.tar: train"
            case "truncated":
                tar.write_bytes(data[:-20_000])
                expected = "train-000001.tar: is truncated"
            case "missing":
                tar.unlink()
                expected = "train-000001.tar: is missing"
            case _:
                (shards / "train-000077.tar").write_bytes(data)
                expected = "train-000077.tar: is not in the manifest"
        result = dist_seg("verify", shards, cwd=shards.parent)
        assert result.returncode == 1, result.stderr
        assert expected in result.stdout
        assert result.stdout.endswith(": 1 problem\n")

    def test_a_url_that_lacks_something_says_what(self, tmp_path: Path) -> None:
        pytest.importorskip("obstore", reason="needs obstore (the storage extra)")
        assert "AZURE_STORAGE_ACCOUNT_NAME" in _refused("verify", "az://container/data", cwd=tmp_path)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training images, one of them in the validation split, too, mirrored."""
    root = tmp_path_factory.mktemp("leaky")
    for number in range(13):
        scene = draw_shapes(64, 80, np.random.default_rng(3 if number == 12 else number))
        image, mask = scene.image, scene.mask
        split, name = ("val", "copy") if number == 12 else ("train", f"c{number:02d}")
        step = -1 if split == "val" else 1
        _picture(root / "images" / split / f"{name}.png", image[:, ::step])
        _picture(root / "masks" / split / f"{name}.png", mask[:, ::step])
    result = dist_seg("pack", "folder", "images", "masks", "out", cwd=root)
    assert result.returncode == 0, result.stderr
    return root / "out"


class TestInspect:
    def test_one_split_as_json_and_on_a_sheet(self, shards: Path, tmp_path: Path) -> None:
        options = ["--split", "val", "--json", "counts.json", "--out", "sheet.png", "--samples", 2]
        result = dist_seg("inspect", shards, *options, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        document = json.loads((tmp_path / "counts.json").read_text())
        assert [(split["name"], split["num_samples"]) for split in document["splits"]] == [("val", 8)]
        with Image.open(tmp_path / "sheet.png") as sheet:
            assert sheet.format == "PNG"

    def test_every_split_is_drawn_where_none_is_named(self, shards: Path, tmp_path: Path) -> None:
        result = dist_seg("inspect", shards, "--samples", 1, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert [line.split()[0] for line in result.stdout.splitlines() if "MiB" in line] == ["train", "val"]
        with Image.open(tmp_path / "contact_sheet.png") as sheet:
            assert sheet.width > 4 * 240  # a picture and a mask of each, side by side

    def test_what_is_found_is_told_drawn_and_written(self, leaky: Path, tmp_path: Path) -> None:
        result = dist_seg("inspect", leaky, "--json", "all.json", "--out", "sheet.jpg", "--workers", 1, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "looked at 12 of 12 samples of train, 1 of 1 sample of val: 1 error" in result.stdout
        assert result.stdout.endswith("contact sheet: sheet.jpg\nsuspects: suspects.png\n")
        document = json.loads((tmp_path / "all.json").read_text())
        assert document["findings"][0]["examples"][0]["samples"] == ["train/train__c03", "val/val__copy"]
        assert document["splits"][0]["num_samples"] == 12 and "cooccurrence" in document
        with Image.open(tmp_path / "suspects.png") as sheet:
            assert sheet.format == "PNG"

    def test_strict_exits_1_for_more_than_notes(self, leaky: Path, shards: Path, tmp_path: Path) -> None:
        assert dist_seg("inspect", leaky, "--strict", "--workers", 1, cwd=tmp_path).returncode == 1
        assert dist_seg("inspect", leaky, "--strict", "--split", "train", cwd=tmp_path).returncode == 0
        assert dist_seg("inspect", shards, "--strict", "--workers", 1, cwd=tmp_path).returncode == 0

    def test_counts_alone_decode_nothing(self, leaky: Path, tmp_path: Path) -> None:
        result = dist_seg("inspect", leaky, "--look", 0, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "looked at 0 of 12 samples of train, 0 of 1 sample of val" in result.stdout
        assert not (tmp_path / "suspects.png").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--suspects", "missing/sheet.png"], "there is no folder missing"),
            (["--out", "suspects.png"], "named by --out and by --suspects"),
            (["--suspects", "sheet.gif"], "must end in .png or .jpg or .jpeg"),
            (["--look", -1], "-1 samples to look at; give 0 or more"),
            (["--workers", 0], "0 worker processes; give at least 1"),
            (["--out", "missing/sheet.png"], "there is no folder missing"),
            (["--out", "sheet.docx"], "must end in .png or .jpg or .jpeg"),
            (["--json", "missing/counts.json"], "there is no folder missing"),
            (["--json", "."], "is a folder"),
            (["--samples", 0], "give at least 1"),
        ],
    )
    def test_outputs_that_cannot_be_written_are_refused_first(
        self, tmp_path: Path, options: list[object], message: str
    ) -> None:
        assert message in _refused("inspect", "no-data-is-looked-for", *options, cwd=tmp_path)

    def test_an_unknown_split_is_refused_with_those_there_are(self, shards: Path, tmp_path: Path) -> None:
        assert "it has train, val" in _refused("inspect", shards, "--split", "test", cwd=tmp_path)
