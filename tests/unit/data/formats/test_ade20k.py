"""ADE20K for scene parsing: 0 is unlabelled, 1 to 150 are the classes."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dist_seg.data.formats.ade20k import ADE20K_NAMES, open_ade20k
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawReading
from dist_seg.errors import DataError

from ..raw_data import picture, write_image


def _write(root: Path, mask: NDArray[np.generic], name: str = "training/ADE_train_00000001") -> None:
    write_image(root / "images" / f"{name}.jpg", picture(*mask.shape[:2]))
    write_image(root / "annotations" / f"{name}.png", mask)


def _info(root: Path, names: list[str], header: str = "Idx\tRatio\tTrain\tVal\tName") -> None:
    rows = [f"{i} \t0.1\t2\t3\t{name} " for i, name in enumerate(names, 1)]
    (root / "objectInfo150.txt").write_text("\n".join([header, *rows, ""]))


def test_unlabelled_is_ignored_and_numbers_count_from_one(tmp_path: Path) -> None:
    _write(tmp_path, np.array([[0, 1, 2], [149, 150, 0]], np.uint8))
    source = open_ade20k(tmp_path)
    (sample,) = source.samples()
    assert source.load(sample).mask.tolist() == [[255, 0, 1], [148, 149, 255]]
    assert (sample.split, sample.key) == ("train", "ADE_train_00000001")


def test_without_a_table_the_classes_have_their_official_names(tmp_path: Path) -> None:
    _write(tmp_path, np.ones((2, 2), np.uint8))
    source = open_ade20k(tmp_path)
    assert source.class_names == ADE20K_NAMES and source.notes == ()
    assert [ADE20K_NAMES[i] for i in (0, 12, 44, 89, 141, 149)] == [
        *("wall", "person", "chest of drawers", "television", "crt screen", "flag")
    ]
    assert len(set(ADE20K_NAMES)) == 150 == len(set(source.palette))


def test_the_table_names_the_classes_by_their_first_synonyms(tmp_path: Path) -> None:
    _write(tmp_path, np.ones((2, 2), np.uint8))
    _info(tmp_path, ["wall, big wall", *(f"thing {i}" for i in range(149))])
    source = open_ade20k(tmp_path)
    assert source.class_names[:2] == ("wall", "thing 0")
    assert source.notes == (f"classes from {tmp_path / 'objectInfo150.txt'}",)


def test_the_table_with_a_further_column_is_read_as_well(tmp_path: Path) -> None:
    _write(tmp_path, np.ones((2, 2), np.uint8))
    header = "Idx\tRatio\tTrain\tVal\tStuff\tName"
    _info(tmp_path, [f"1\tthing {i}, other" for i in range(150)], header)
    assert open_ade20k(tmp_path).class_names[149] == "thing 149"


@pytest.mark.parametrize(
    ("names", "header", "message"),
    [
        (["a"] * 150, "Idx\tName", r"objectInfo150\.txt: class '0.1' is listed twice"),
        ([f"a{i}" for i in range(149)], "Idx\tRatio\tTrain\tVal\tName", r"must have the lines 1 to 150.*has 149"),
        (["a"], "Idx;Name", r"objectInfo150\.txt: not a table with tabs between the columns"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, names: list[str], header: str, message: str) -> None:
    _write(tmp_path, np.ones((2, 2), np.uint8))
    _info(tmp_path, names, header)
    with pytest.raises(DataError, match=message):
        open_ade20k(tmp_path)


def test_a_number_above_the_classes_is_refused_by_file_and_position(tmp_path: Path) -> None:
    mask = np.ones((3, 4), np.uint8)
    mask[1, 3] = 151
    _write(tmp_path, mask)
    with pytest.raises(DataError, match=r"annotations/training/.*\.png: class id 151 at \(x=3, y=1\).*ignored: 0"):
        pack(open_ade20k(tmp_path), tmp_path / "out")


def test_both_parts_are_packed_under_their_own_names(tmp_path: Path) -> None:
    _write(tmp_path, np.full((2, 3), 7, np.uint8))
    _write(tmp_path, np.full((2, 3), 150, np.uint8), "validation/ADE_val_00000001")
    manifest = pack(open_ade20k(tmp_path), tmp_path / "out").manifest
    assert {name: split.num_samples for name, split in manifest.splits.items()} == {"train": 1, "val": 1}
    assert manifest.splits["val"].class_pixels[149] == 6


def test_a_lone_image_is_named_or_left_out(tmp_path: Path) -> None:
    _write(tmp_path, np.ones((2, 3), np.uint8))
    write_image(tmp_path / "images/training/b.jpg", picture(2, 3))
    with pytest.raises(DataError, match=r"no mask in .*annotations/training for .*b\.jpg"):
        open_ade20k(tmp_path).samples()
    result = pack(
        open_ade20k(tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "out", PackOptions(skip_bad=True)
    )
    assert [str(refusal) for refusal in result.skipped] == [f"{tmp_path / 'images/training/b.jpg'}: has no mask"]


def test_a_mask_in_colours_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, np.full((2, 3, 3), (1, 2, 3), np.uint8))
    with pytest.raises(DataError, match=r"\.png: in colours, \(1, 2, 3\) at \(x=0, y=0\); class ids must be grey"):
        pack(open_ade20k(tmp_path), tmp_path / "out")


def test_the_limit_of_pixels_holds_for_masks(tmp_path: Path) -> None:
    _write(tmp_path, np.ones((2, 3), np.uint8))
    source = open_ade20k(tmp_path, reading=RawReading(max_pixels=5))
    with pytest.raises(DataError, match=r"\.png: 3x2 pixels are more than the allowed 5"):
        source.load(source.samples()[0])


def test_another_folder_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither images/training nor images/validation; is this ADEChallengeData2016"):
        open_ade20k(tmp_path).samples()
