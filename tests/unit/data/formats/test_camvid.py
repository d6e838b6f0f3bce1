"""CamVid's layout, on a toy and on the real images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.data.formats.camvid import CamvidSource
from dist_seg.data.raw.source import RawReading, load_sample
from dist_seg.errors import DataError

from ..raw_data import picture


def _write(root: Path, split: str, stem: str, ids: list[list[int]]) -> None:
    mask = np.array(ids, np.uint8)
    for folder, image in ((split, picture(*mask.shape)), (f"{split}annot", mask)):
        (root / folder).mkdir(exist_ok=True)
        Image.fromarray(image).save(root / folder / f"{stem}.png")


def test_every_folder_with_masks_beside_it_is_a_split(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        _write(tmp_path, split, "a", [[0]])
    (tmp_path / "other").mkdir()
    assert [ref.split for ref in CamvidSource(root=tmp_path).samples()] == ["test", "train", "val"]


def test_void_is_ignored(tmp_path: Path) -> None:
    _write(tmp_path, "train", "a", [[0, 10, 11]])
    source = CamvidSource(root=tmp_path)
    assert source.load(source.samples()[0]).mask.tolist() == [[0, 10, 255]]


def test_a_sequence_may_be_kept_apart(tmp_path: Path) -> None:
    for stem in ("0001TP_1", "0006R0_1"):
        _write(tmp_path, "train", stem, [[0]])
    refs = CamvidSource(root=tmp_path, dev_prefix="0006R0").samples()
    assert {ref.key: ref.split for ref in refs} == {"0001TP_1": "train", "0006R0_1": "dev"}
    with pytest.raises(DataError, match="no training image begins with 'x'"):
        CamvidSource(root=tmp_path, dev_prefix="x").samples()


def test_the_limit_of_pixels_holds_for_masks_too(tmp_path: Path) -> None:
    _write(tmp_path, "train", "a", [[0, 1, 2]])
    source = CamvidSource(root=tmp_path, reading=RawReading(max_pixels=2))
    with pytest.raises(DataError, match=r"trainannot/a\.png: 3x1 pixels are more than the allowed 2"):
        source.load(source.samples()[0])


def test_an_image_without_a_mask_is_named_or_a_bad_sample(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        _write(tmp_path, "train", stem, [[0]])
    (tmp_path / "trainannot" / "b.png").unlink()
    with pytest.raises(DataError, match=r"no mask in .*trainannot for .*train/b\.png"):
        CamvidSource(root=tmp_path).samples()
    source = CamvidSource(root=tmp_path, reading=RawReading(skip_bad=True))
    with pytest.raises(DataError, match=r"train/b\.png: has no mask"):
        load_sample(source, source.samples()[1])


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is this CamVid"):
        CamvidSource(root=tmp_path).samples()
    with pytest.raises(DataError, match="no such folder"):
        CamvidSource(root=tmp_path / "x").samples()


def test_the_real_data_set_is_found_whole(shared_data: Path) -> None:
    source = CamvidSource(root=shared_data / "camvid")
    splits = [ref.split for ref in source.samples()]
    assert (splits.count("train"), splits.count("val")) == (367, 101)
    assert set(np.unique(source.load(source.samples()[0]).mask)) <= {*range(11), 255}
