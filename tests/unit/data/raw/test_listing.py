"""Pairs of files in folders, and what becomes of entries that are at fault."""

from pathlib import Path

import pytest

from dist_seg.data.raw.listing import Pair, PairFolders, listed_refs, pair_ref, refuse_faults
from dist_seg.data.raw.source import RawReading
from dist_seg.errors import DataError


def _file(path: Path, size: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def _folders(root: Path) -> PairFolders:
    return PairFolders(
        images=root / "images", masks=root / "masks", split="train", image_ending="_rgb", mask_ending="_ids"
    )


def test_only_files_with_the_endings_are_pairs(tmp_path: Path) -> None:
    image, mask = _file(tmp_path / "images/x/a_rgb.png"), _file(tmp_path / "masks/x/a_ids.png")
    other = _file(tmp_path / "masks/x/a_depth.png")
    pairs, others = _folders(tmp_path).pairs()
    assert pairs == [Pair(stem="x/a", image=image, mask=mask)]
    assert others == [other]


def test_a_lone_file_is_an_error_or_a_sample_with_a_fault(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _file(tmp_path / f"images/{name}_rgb.png")
    for name in ("a", "c"):
        _file(tmp_path / f"masks/{name}_ids.png")
    with pytest.raises(DataError, match=r"no mask in .*masks for .*b_rgb\.png"):
        _folders(tmp_path).refs(RawReading())
    good, without_mask, without_image = _folders(tmp_path).refs(RawReading(skip_bad=True))
    assert (good.key, good.fault) == ("a", "")
    assert without_mask.fault == f"{tmp_path / 'images/b_rgb.png'}: has no mask"
    assert without_image.fault == f"{tmp_path / 'masks/c_ids.png'}: a mask that has no image"


def test_one_file_with_image_and_mask_counts_once(tmp_path: Path) -> None:
    both = _file(tmp_path / "a.json", size=7)
    ref = pair_ref(Pair(stem="a", image=both, mask=both), "train", "v1")
    assert (ref.num_bytes, ref.version, ref.portable_version, ref.fault) == (
        7,
        f"7@{both.stat().st_mtime_ns} v1",
        "v1",
        "",
    )


def test_a_listed_fault_is_an_error_or_a_sample_of_its_own(tmp_path: Path) -> None:
    image, mask = _file(tmp_path / "a.jpg"), _file(tmp_path / "a.png")
    listed = [
        ("train", Pair(stem="a", image=image, mask=mask)),
        ("val", Pair(stem="b", image=None, mask=None, fault="list:2: there is no image b")),
    ]
    with pytest.raises(DataError, match=r"list:2: there is no image b\nfix the list, or .*--skip-bad"):
        listed_refs(listed, RawReading(), "v1", "the list")
    good, bad = listed_refs(listed, RawReading(skip_bad=True), "v1", "the list")
    assert (good.key, good.split, good.fault) == ("a", "train", "")
    assert bad.key == "b fault 1"
    assert (bad.split, bad.fault, bad.version) == ("val", "list:2: there is no image b", "list:2: there is no image b")


def test_a_fault_keeps_its_key_when_other_entries_come() -> None:
    """`--append` would count it once more under another key."""
    nowhere = Pair(stem="b", image=None, mask=None, fault="list:1: there is no image b")
    twice = Pair(stem="b", image=None, mask=None, fault="list:2: b is listed twice")
    other = Pair(stem="a", image=None, mask=None, fault="list:1: there is no image a")
    skipping = RawReading(skip_bad=True)
    before = listed_refs([("train", nowhere), ("train", twice), ("val", nowhere)], skipping, "v1", "the list")
    after = listed_refs(
        [("train", other), ("train", nowhere), ("train", twice), ("val", nowhere)], skipping, "v1", "the list"
    )
    assert [ref.key for ref in before] == ["b fault 1", "b fault 2", "b fault 1"]
    assert [ref.key for ref in after] == ["a fault 1", *(ref.key for ref in before)]


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["x"], r"^x\nfix"),
        (["x", "y"], "^x; 1 more fault of this kind"),
        (["x", "y", "z"], "^x; 2 more faults of this"),
    ],
)
def test_the_other_faults_are_counted(faults: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        refuse_faults(faults, "the list")


def test_no_fault_is_no_error() -> None:
    refuse_faults([], "the list")
