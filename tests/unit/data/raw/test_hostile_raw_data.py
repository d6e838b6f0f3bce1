"""Raw data made to do harm: pictures that claim gigabytes, and annotations that name files elsewhere."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dist_seg.data.codecs.annotations import parse_annotations
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.formats.coco.instances import open_coco
from dist_seg.data.formats.folder import open_folder
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.images import check_image, read_mask
from dist_seg.errors import DataError
from tests.loader_cases import scene_sample
from tests.picture_bombs import huge_jpeg, huge_png, peak_memory_of, with_expanding_text


@pytest.mark.parametrize("picture", [huge_png(50_000, 50_000), huge_jpeg(60_000, 60_000)], ids=["png", "jpeg"])
def test_a_picture_that_claims_gigabytes_is_refused_before_it_is_decoded(picture: bytes) -> None:
    with peak_memory_of() as peak, pytest.raises(DataError, match=r"x: \d+x\d+ pixels are more than the allowed"):
        check_image(picture, "x")
    assert peak.grown_bytes < 1 << 28


def test_so_is_a_mask() -> None:
    with pytest.raises(DataError, match="m: 50000x50000 pixels are more than the allowed"):
        read_mask(huge_png(50_000, 50_000, grey=True), "m")


@pytest.mark.parametrize("chunk", ["zTXt", "iTXt", "iCCP"])
def test_text_that_expands_to_a_gigabyte_never_reaches_a_shard(chunk: str) -> None:
    png = with_expanding_text(scene_sample(0, form="png").image, chunk, 1 << 30)
    with peak_memory_of() as peak:
        try:
            packed = check_image(png, "x").data
        except DataError:
            packed = b""
    assert peak.grown_bytes < 1 << 28
    assert chunk.encode() not in packed


def test_packing_leaves_a_bomb_out_with_its_name_where_that_is_allowed(tmp_path: Path) -> None:
    sample = scene_sample(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    pictures = {f"{i}.jpg": sample.image for i in range(8)} | {"bomb.png": huge_png(50_000, 50_000)}
    for name, image in pictures.items():
        (tmp_path / "images" / name).write_bytes(image)
        (tmp_path / "masks" / name).with_suffix(".png").write_bytes(sample.target)
    source = open_folder(tmp_path / "images", tmp_path / "masks")
    result = pack(source, tmp_path / "out", PackOptions(skip_bad=True))
    assert sum(split.num_samples for split in result.manifest.splits.values()) == 8
    (left_out,) = result.skipped
    assert "bomb.png: 50000x50000 pixels" in left_out.reason


@pytest.mark.parametrize(
    "name", ["../outside.png", "/etc/outside.png", "a/../../outside.png", "..\\outside.png", "C:\\x.png", "x\0.png"]
)
def test_an_annotated_image_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    document = {
        "images": [{"id": 7, "file_name": name, "height": 8, "width": 8}],
        "annotations": [],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="image 7 lies outside the folder of its images"):
        open_coco(tmp_path).samples()


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"image_id": 1e999}', b"9" * 5000, b"\xff"])
def test_annotations_of_nonsense_in_a_shard_make_a_bad_sample(data: bytes) -> None:
    with pytest.raises(UndecodableError, match="not annotations as dist-seg packs them"):
        parse_annotations(data)
