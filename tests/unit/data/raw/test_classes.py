"""From numbers and colours in mask files to class ids."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dist_seg.data.raw.classes import found_classes, mask_numbers, read_classes, read_colors
from dist_seg.data.raw.images import RawMask
from dist_seg.data.raw.meaning import MEANING, check_same_meaning, recorded_meaning
from dist_seg.errors import DataError


def _file(tmp_path: Path, text: str, name: str = "classes.txt") -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


def _numbers(*values: int) -> RawMask:
    return RawMask(values=np.array([values], np.int32))


def _colors(*colors: tuple[int, int, int]) -> RawMask:
    return RawMask(values=np.array([colors], np.uint8))


def test_a_name_a_line(tmp_path: Path) -> None:
    table = read_classes(_file(tmp_path, "# my classes\nsky\n\nwet road # not dry\n2nd wheel\n"))
    assert table.names == ("sky", "wet road", "2nd wheel")
    assert table.class_ids(_numbers(0, 2, 1, 255), "m").tolist() == [[0, 2, 1, 255]]


def test_numbers_and_names(tmp_path: Path) -> None:
    table = read_classes(_file(tmp_path, "\ufeff0: background\n7,nucleus\n3 wall\n40\tVoid\n"))
    assert table.names == ("background", "nucleus", "wall")
    assert table.class_ids(_numbers(7, 3, 0, 40, 255), "m").tolist() == [[1, 2, 0, 255, 255]]


def test_255_may_be_a_class(tmp_path: Path) -> None:
    table = read_classes(_file(tmp_path, "0 background\n255 cell\n"))
    assert table.class_ids(_numbers(0, 255), "m").tolist() == [[0, 1]]


@pytest.mark.parametrize("value", [3, -1, 254, 256, 65535, 70000])
def test_a_number_without_a_class_is_named_with_its_place(tmp_path: Path, value: int) -> None:
    table = read_classes(_file(tmp_path, "a\nb\nc\n"))
    mask = RawMask(values=np.array([[0, 1], [2, value], [value, 0]], np.int32))
    with pytest.raises(DataError, match=rf"m\.png: class id {value} at \(x=1, y=1\) \(2 such pixels\).*0 a, 1 b, 2 c"):
        table.class_ids(mask, "m.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no class"),
        ("# nothing\n", "names no class"),
        ("void\n", "0 classes"),
        ("a\na\n", "'a' is listed twice"),
        ("1 a\n1 b\n", r"classes\.txt:2: class number 1 is listed twice"),
        ("1 car\n2 bus\nvoid\n", r"classes\.txt:3: 'void' has no number, but line 1, '1 car', has one"),
        ("id name\n0 car\n1 bus\n", r"classes\.txt:1: 'id name' has no number, but line 2, '0 car', has one"),
        ("id,name\n0,car\n1,bus\n", r"classes\.txt:1: 'id,name' has no number, but line 2, '0,car', has one"),
        ("car\n2 wheeler\n", r"classes\.txt:1: 'car' has no number, but line 2, '2 wheeler', has one"),
        ("1 car\n2\n", r"classes\.txt:2: '2' has no number, but line 1, '1 car', has one"),
        ("car,0\nbus,1\n", r"classes\.txt:1: 'car,0'; write the number first"),
        ("car\t0\nbus\t1\n", r"classes\.txt:1: 'car\\t0'; write the number first"),
        ("70000 a\n", r"classes\.txt:1: class number 70000"),
        ("".join(f"c{i}\n" for i in range(256)), "256 classes"),
    ],
)
def test_a_wrong_list_of_classes_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_classes(_file(tmp_path, text))


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_classes(tmp_path / "classes.txt")


def test_colours_become_classes_in_their_order(tmp_path: Path) -> None:
    table = read_colors(_file(tmp_path, "128 64 128 road\n0,0,0\tignore\n70 70 70 building\n1 2 3 road\n"), None)
    assert table.names == ("road", "building")
    assert table.palette == ((128, 64, 128), (70, 70, 70))
    mask = _colors((70, 70, 70), (0, 0, 0), (1, 2, 3), (128, 64, 128))
    assert table.class_ids(mask, "m").tolist() == [[1, 255, 0, 0]]


def test_colours_follow_the_order_of_the_classes(tmp_path: Path) -> None:
    classes = read_classes(_file(tmp_path, "a\nb\n"))
    table = read_colors(_file(tmp_path, "2 2 2 b\n1 1 1 a\n", "colors.txt"), classes)
    assert (table.names, table.palette) == (("a", "b"), ((1, 1, 1), (2, 2, 2)))
    with pytest.raises(DataError, match=r"colors\.txt:1: 'c' is not one of the classes \(a, b\)"):
        read_colors(_file(tmp_path, "2 2 2 c\n", "colors.txt"), classes)


def test_a_colour_that_is_not_in_the_map_is_named_with_its_place(tmp_path: Path) -> None:
    table = read_colors(_file(tmp_path, "1 1 1 a\n"), None)
    with pytest.raises(DataError, match=r"m: colour \(1, 1, 2\) at \(x=1, y=0\) is not in the colour map \(1 such"):
        table.class_ids(_colors((1, 1, 1), (1, 1, 2)), "m")


@pytest.mark.parametrize("line", ["1 2 road", "1 2 3", "256 0 0 road", "x 0 0 road", "-1 0 0 road"])
def test_a_wrong_line_of_colours_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match=r"colors\.txt:2: .*write 'R G B name'"):
        read_colors(_file(tmp_path, f"0 0 0 a\n{line}\n", "colors.txt"), None)


def test_the_same_colour_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"colors\.txt:2: colour 0 0 0 is listed twice"):
        read_colors(_file(tmp_path, "0 0 0 a\n0 0 0 b\n", "colors.txt"), None)


@pytest.mark.parametrize("value", [256, 1000, 65535, -1])
def test_a_grey_that_is_no_colour_is_named_with_its_place(tmp_path: Path, value: int) -> None:
    table = read_colors(_file(tmp_path, "0 0 0 a\n255 255 255 b\n"), None)
    assert table.class_ids(_numbers(0, 255), "m").tolist() == [[0, 1]]
    message = rf"m: the grey value {value} at \(x=1, y=0\) \(1 such pixels\) cannot be a colour"
    with pytest.raises(DataError, match=message):
        table.class_ids(_numbers(0, value), "m")


def test_a_palette_mask_is_read_by_its_colours_where_there_is_a_map(tmp_path: Path) -> None:
    table = read_colors(_file(tmp_path, "9 9 9 a\n5 5 5 b\n"), None)
    mask = RawMask(values=np.array([[0, 1]], np.uint8), palette=((5, 5, 5), (9, 9, 9)))
    assert table.class_ids(mask, "m").tolist() == [[1, 0]]


def test_colours_without_a_map_are_refused_with_their_place(tmp_path: Path) -> None:
    table = read_classes(_file(tmp_path, "a\nb\n"))
    with pytest.raises(DataError, match=r"m: a mask in colours, \(1, 2, 3\) at \(x=1, y=0\); give a colour map"):
        table.class_ids(_colors((1, 1, 1), (1, 2, 3)), "m")


def test_grey_numbers_in_three_channels_are_numbers(tmp_path: Path) -> None:
    table = read_classes(_file(tmp_path, "a\nb\n"))
    assert table.class_ids(_colors((1, 1, 1), (0, 0, 0)), "m").tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("values", "names", "mask", "ids"),
    [
        ([0, 1, 2], ("class_0", "class_1", "class_2"), [2, 0], [2, 0]),
        ([0, 1, 255], ("class_0", "class_1"), [1, 255], [1, 255]),
        ([0, 255], ("background", "foreground"), [255, 0], [1, 0]),
        ([3, 90], ("class_3", "class_90"), [90, 3, 255], [1, 0, 255]),
    ],
)
def test_classes_are_found_in_the_masks(
    values: list[int], names: tuple[str, ...], mask: list[int], ids: list[int]
) -> None:
    table = found_classes(values, None, "masks")
    assert table.names == names
    found: NDArray[np.uint8] = table.class_ids(_numbers(*mask), "m")
    assert found.tolist() == [ids]


def test_found_classes_take_the_palette_s_colours() -> None:
    assert found_classes([0, 2], [(1, 1, 1), (2, 2, 2), (3, 3, 3)], "m").palette == ((1, 1, 1), (3, 3, 3))


@pytest.mark.parametrize(("values", "message"), [([255], "hold only 255"), (range(300), "299 different numbers")])
def test_numbers_that_are_no_classes_are_refused(values: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        found_classes(values, None, "masks")


@pytest.mark.parametrize("value", [-1, 65536, 2**30])
def test_a_number_that_is_no_class_id_is_named_with_its_file(value: int) -> None:
    with pytest.raises(DataError, match=rf"m\.tif: holds the number {value}; class ids are 0 to 65535"):
        mask_numbers(_numbers(0, value), "m.tif")


def test_the_meaning_names_classes_and_what_is_ignored(tmp_path: Path) -> None:
    table = read_classes(_file(tmp_path, "3 wall\n7 roof\n9 void\n"))
    assert table.meaning == {"number": {"3": "wall", "7": "roof", "9": None, "255": None}}
    colors = read_colors(_file(tmp_path, "1 2 3 wall\n0 0 0 ignore\n", "colors.txt"), None)
    assert colors.meaning == {"colour": {"1 2 3": "wall", "0 0 0": None}}


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"255": "b"}, r"out was packed with number 255 ignored, more has it as 'b'"),
        ({"1": None}, r"out was packed with number 1 as 'b', more has it ignored"),
    ],
)
def test_what_would_become_another_class_is_refused(now: dict[str, str | None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_same_meaning("out", {"number": {"0": "a", "1": "b", "255": None}}, "more", {"number": now})


def test_what_only_one_side_knows_does_not_matter() -> None:
    then = {"number": {"0": "a", "1": "b"}}
    for now in ({"number": {"0": "a", "2": "b"}}, {"colour": {"0 0 0": "b"}}, None):
        check_same_meaning("out", then, "more", now)
    check_same_meaning("out", None, "more", then)


@pytest.mark.parametrize("options", [None, {}, {MEANING: None}, {MEANING: {"number": 3}}])
def test_a_meaning_that_is_not_recorded_is_not_known(options: dict[str, object] | None) -> None:
    assert recorded_meaning(options) is None
