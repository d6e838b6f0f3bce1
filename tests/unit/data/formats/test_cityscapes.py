"""Class masks of Cityscapes: every label id becomes its train id."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dist_seg.data.formats.cityscapes import CityscapesInstances, CityscapesSource
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawReading
from dist_seg.errors import DataError

from ..raw_data import picture, write_image

# The train ids of the label ids 0 to 33, from cityscapesScripts.
_TRAIN_IDS = [
    *(255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13),
    *(14, 15, 255, 255, 16, 17, 18),
]


def _write(root: Path, labels: NDArray[np.generic], frame: str = "train/aachen/aachen_000000_000019") -> Path:
    write_image(root / f"leftImg8bit/{frame}_leftImg8bit.png", picture(*labels.shape[:2]))
    for kind in ("instanceIds", "color"):
        write_image(root / f"gtFine/{frame}_gtFine_{kind}.png", np.zeros(labels.shape[:2], np.uint8))
    (root / f"gtFine/{frame}_gtFine_polygons.json").write_text("{}")
    mask = root / f"gtFine/{frame}_gtFine_labelIds.png"
    write_image(mask, labels)
    return mask


def _ids(root: Path) -> list[list[int]]:
    source = CityscapesSource(root=root)
    (sample,) = source.samples()
    return source.load(sample).mask.tolist()


def test_every_label_has_its_train_id(tmp_path: Path) -> None:
    _write(tmp_path, np.arange(34, dtype=np.uint8).reshape(2, 17))
    assert _ids(tmp_path) == [_TRAIN_IDS[:17], _TRAIN_IDS[17:]]


@pytest.mark.parametrize("value", [np.array([[7, 255]], np.uint8), np.array([[7, -1]], np.int32)])
def test_license_plates_are_ignored_as_8_bits_have_them_and_as_minus_one(
    tmp_path: Path, value: NDArray[np.integer]
) -> None:
    mask = _write(tmp_path, np.zeros((1, 2), np.uint8))
    mask.unlink()
    write_image(mask.with_suffix(".tif"), value)
    assert _ids(tmp_path) == [[0, 255]]


def test_classes_are_named_and_coloured_in_the_order_of_the_train_ids() -> None:
    names, palette = CityscapesSource.class_names, CityscapesSource.palette
    assert (len(names), names[0], names[7], names[18]) == (19, "road", "traffic sign", "bicycle")
    assert (palette[1], palette[7], palette[13]) == ((244, 35, 232), (220, 220, 0), (0, 0, 142))
    assert CityscapesInstances.class_names == names[11:]


@pytest.mark.parametrize("value", [34, 200])
def test_a_number_that_is_no_label_is_refused_by_file_and_position(tmp_path: Path, value: int) -> None:
    labels = np.full((3, 4), 7, np.uint8)
    labels[2, 1] = value
    _write(tmp_path, labels)
    with pytest.raises(DataError, match=rf"labelIds\.png: class id {value} at \(x=1, y=2\) \(1 such pixels\)"):
        pack(CityscapesSource(root=tmp_path), tmp_path / "out")


def test_a_mask_in_colours_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"labelIds\.png: a mask in colours; Cityscapes' labelIds are grey"):
        pack(CityscapesSource(root=tmp_path), tmp_path / "out")


def test_train_and_val_are_packed_and_test_is_not(tmp_path: Path) -> None:
    for frame in ("train/aachen/aachen_1", "val/lindau/lindau_1", "test/berlin/berlin_1"):
        _write(tmp_path, np.full((3, 4), 7, np.uint8), frame)
    manifest = pack(CityscapesSource(root=tmp_path), tmp_path / "out").manifest
    assert {name: split.num_samples for name, split in manifest.splits.items()} == {"train": 1, "val": 1}
    assert manifest.splits["val"].class_pixels == (12, *(0,) * 18)


def test_an_image_without_labels_is_named_or_left_out(tmp_path: Path) -> None:
    for city in ("aachen", "bremen"):
        mask = _write(tmp_path, np.full((3, 4), 7, np.uint8), f"train/{city}/{city}_1")
    mask.unlink()
    with pytest.raises(DataError, match=r"no mask in .*gtFine/train for .*bremen_1_leftImg8bit\.png"):
        CityscapesSource(root=tmp_path).samples()
    result = pack(
        CityscapesSource(root=tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "out", PackOptions(skip_bad=True)
    )
    (refusal,) = result.skipped
    assert "bremen_1_leftImg8bit.png: has no mask" in refusal.reason


def test_the_limit_of_pixels_holds_for_masks(tmp_path: Path) -> None:
    _write(tmp_path, np.full((3, 4), 7, np.uint8))
    source = CityscapesSource(root=tmp_path, reading=RawReading(max_pixels=11))
    with pytest.raises(DataError, match=r"labelIds\.png: 4x3 pixels are more than the allowed 11"):
        source.load(source.samples()[0])


def test_another_folder_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds neither leftImg8bit/train nor leftImg8bit/val; is this Cityscapes"):
        CityscapesSource(root=tmp_path).samples()
    with pytest.raises(DataError, match="no such folder"):
        CityscapesSource(root=tmp_path / "x").samples()
