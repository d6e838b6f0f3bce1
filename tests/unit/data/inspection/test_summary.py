"""The summary of a packed data set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dist_seg.cli.main import main
from dist_seg.data.formats.coco.instances import open_coco
from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.inspection import sheets as sheet_module
from dist_seg.data.inspection.summary import inspect
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawSample, SampleRef
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.opened import open_data
from dist_seg.errors import DataError, StorageError, UserError
from dist_seg.storage.object_store import open_storage
from tests.loader_cases import scene_sample, write_dataset

from ..coco_data import annotation, write_coco
from ..raw_data import encoded, picture


@dataclass(frozen=True)
class SizesSource:
    """Three training images of two sizes, one for validation; one class is never there, one is half."""

    class_names: ClassVar[tuple[str, ...]] = ("half", "other", "never")
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = ((10, 20, 30), (200, 0, 0), (0, 200, 0))
    ignore_index: ClassVar[int] = 255
    sizes: ClassVar[dict[str, tuple[int, int]]] = {"a": (10, 20), "b": (10, 20), "c": (40, 8), "v": (10, 20)}

    def samples(self) -> Sequence[SampleRef]:
        return [SampleRef(key=key, split="val" if key == "v" else "train", where=key) for key in self.sizes]

    def load(self, sample: SampleRef) -> RawSample:
        height, width = self.sizes[sample.key]
        mask = np.zeros((height, width), np.uint8)
        mask[: height // 2] = 1
        mask[-1] = 255
        return RawSample(image=encoded(Image.fromarray(picture(height, width)), "PNG"), mask=mask)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sizes")
    pack(SizesSource(), out, PackOptions(shard_bytes=70_000))
    return out


def test_counts_and_sizes(packed: Path) -> None:
    train = inspect(open_data(packed)).splits[0]
    assert (train.name, train.num_samples, train.num_sizes) == ("train", 3, 2)
    assert (train.height_min_median_max, train.width_min_median_max) == ((10, 10, 40), (8, 20, 20))
    assert train.common_sizes == ((10, 20, 2), (40, 8, 1))


def test_fractions_are_of_the_pixels_with_a_class(packed: Path) -> None:
    train = inspect(open_data(packed)).splits[0]
    assert train.class_pixels == (80 + 80 + 152, 100 + 100 + 160, 0)
    assert train.class_fractions == pytest.approx((312 / 672, 360 / 672, 0))
    assert train.ignored_fraction == pytest.approx(48 / 720)


def test_absent_classes_are_named(packed: Path) -> None:
    inspection = inspect(open_data(packed), split="val")
    assert [split.absent_classes for split in inspection.splits] == [("never",)]
    assert "no pixel in val: never" in inspection.to_text()


def test_json_holds_the_same(packed: Path) -> None:
    document = json.loads(inspect(open_data(packed)).to_json())
    assert document["class_names"] == ["half", "other", "never"]
    assert document["splits"][1]["num_samples"] == 1


def test_text_shows_splits_and_classes(packed: Path) -> None:
    text = inspect(open_data(packed)).to_text()
    assert "8 x 10 to 20 x 40, 2 sizes" in text
    assert any(line.split() == ["0", "half", "46.43%", "44.44%"] for line in text.splitlines())


def test_the_contact_sheet_shows_images_beside_their_masks(packed: Path, tmp_path: Path) -> None:
    inspect(open_data(packed), out_png=tmp_path / "sheet.png", num_images=4)
    with Image.open(tmp_path / "sheet.png") as sheet:
        colors = {color for _, color in sheet.convert("RGB").getcolors(2**20) or []}
    assert {(10, 20, 30), (200, 0, 0)} <= colors


def test_pictures_over_pil_s_own_limit_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(SyntheticSource(num_train=1, num_val=0, height=300, width=300), tmp_path / "large")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)  # PIL doubles it, and applies it to text as well
    inspect(open_data(tmp_path / "large"), out_png=tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()


def test_pictures_are_shrunk_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], *_: object, **__: object) -> Image.Image:
        held.extend(max(picture.shape) for row in rows for picture in row)
        return Image.new("RGB", (1, 1))

    pack(SyntheticSource(num_train=2, num_val=0, height=400, width=900), tmp_path / "large")
    monkeypatch.setattr(sheet_module, "contact_sheet", sheet)
    inspect(open_data(tmp_path / "large"), out_png=tmp_path / "sheet.png")
    assert len(held) == 4 and max(held) <= 240


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/sheet.png", "there is no folder .*missing; make it first"),
        ("sheet.xyz", r"must end in \.png or"),
        ("sheet", r"must end in \.png or"),
        ("folder.png", "is a folder"),
    ],
)
def test_a_sheet_that_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=message):
        inspect(open_data(tmp_path / "no data at all"), out_png=tmp_path / name)


def test_a_full_disk_is_named(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StorageError, match=r"sheet\.png: cannot be written: No space left on device"):
        inspect(open_data(packed), out_png=tmp_path / "sheet.png")


def test_what_cannot_be_drawn_is_a_finding_and_the_rest_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = replace(scene_sample(0), key="broken", image=b"no picture")
    write_dataset(tmp_path / "data", [broken, *(scene_sample(i) for i in range(1, 4))])
    sheet = tmp_path / "sheet.png"
    arguments = ["inspect", str(tmp_path / "data"), "--out", str(sheet), "--workers", "1"]
    assert main(arguments) == 0
    assert "train/broken" in capsys.readouterr().out
    assert Image.open(sheet).height > 150
    assert main([*arguments, "--strict"]) == 1


def test_two_outputs_with_one_name_are_refused_before_anything_is_read(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = str(tmp_path / "x.png")
    assert main(["inspect", str(packed), "--out", sheet, "--json", sheet]) == 2
    assert "named by --out and by --json" in capsys.readouterr().err
    assert not list(tmp_path.glob("x.png"))


def test_an_unknown_split_is_refused(packed: Path) -> None:
    with pytest.raises(DataError, match="no split 'test'"):
        inspect(open_data(packed), split="test")


def test_progress_counts_shards(packed: Path) -> None:
    seen: list[tuple[int, int]] = []
    inspect(open_data(packed), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(list(packed.glob("*.tar")))


class TestInstances:
    def test_counts_are_those_of_the_manifest(self, instance_shards: Path) -> None:
        manifest = load_manifest(open_storage(instance_shards))
        for split in inspect(open_data(instance_shards)).splits:
            expected = manifest.split(split.name).objects
            assert split.objects == expected is not None
            assert split.objects_per_image == pytest.approx(expected.total / split.num_samples)

    def test_text_shows_objects_by_split_and_class(self, instance_shards: Path) -> None:
        objects = load_manifest(open_storage(instance_shards)).split("val").objects
        assert objects is not None
        lines = [line.split() for line in inspect(open_data(instance_shards), split="val").to_text().splitlines()]
        assert ["3", "ring", str(objects.class_objects[3])] in lines
        (row,) = (line for line in lines if line[:2] == ["val", str(objects.total)])
        assert row[2:6] == ["0", f"{objects.total / 8:.1f}", str(objects.max_objects), "0"]
        assert row[6:8] == [f"{objects.sides[0]:g}", "(10%),"]

    def test_overlaps_beyond_the_layers_are_told(self, tmp_path: Path) -> None:
        write_coco(tmp_path, [annotation(i) for i in range(4)])
        pack(open_coco(tmp_path), tmp_path / "out")
        text = inspect(open_data(tmp_path / "out")).to_text()
        assert "train: 1 object overlapped by more others than there are layers; 25 of the pixels" in text
        assert "no object in train: nucleus" in text

    def test_a_split_without_objects_is_shown(self, tmp_path: Path) -> None:
        write_coco(tmp_path, [])
        pack(open_coco(tmp_path), tmp_path / "out")
        inspection = inspect(open_data(tmp_path / "out"), out_png=tmp_path / "sheet.png")
        assert inspection.splits[0].objects_per_image == 0
        assert any(
            line.split() == ["train", "0", "0", "0.0", "0", "0", "-"] for line in inspection.to_text().split("\n")
        )

    def test_json_holds_the_objects(self, instance_shards: Path) -> None:
        document = json.loads(inspect(open_data(instance_shards)).to_json())
        assert set(document["splits"][0]["objects"]) >= {"class_objects", "crowd_objects", "max_objects", "sides"}
