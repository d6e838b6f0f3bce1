"""Indexing where something lies already: tars that are indexed, an index cut off while it was made, files of others."""

import json
import os
from pathlib import Path

import pytest

from dist_seg.data.indexing.index_tars import index_tars
from dist_seg.data.indexing.rules import TarLayout
from dist_seg.data.shards.verify import verify
from dist_seg.errors import DataError

from ..tar_data import as_png, read_all, tar_mask, tar_sample, tar_samples, write_tar


def test_an_index_of_dali_s_tool_that_is_there_stays(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a": {**tar_sample(), "txt": b"x"}})
    index_tars(tmp_path)
    line = (tmp_path / "train-0.idx").read_text()
    for path in (*tmp_path.glob("*.json"), tmp_path / "train-0.samples"):
        path.unlink()
    theirs = line.rstrip("\n") + " txt 9999 1 a.txt\n"
    (tmp_path / "train-0.idx").write_text(theirs)
    index_tars(tmp_path)
    assert (tmp_path / "train-0.idx").read_text() == theirs
    assert verify(tmp_path) == []


def test_files_of_others_are_never_written_over(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", tar_samples(1))
    for name in ("train-0.idx", "train-0.samples"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(DataError, match=rf"{name}: dist-seg did not write it"):
            index_tars(tmp_path)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_a_list_of_shards_by_webdataset_stays(tmp_path: Path) -> None:
    """Its wids calls it index.json; ours lies beside it."""
    write_tar(tmp_path / "train-0.tar", tar_samples(1))
    theirs = json.dumps({"wids_version": 1, "shardlist": [{"url": "train-0.tar", "nsamples": 1}]})
    (tmp_path / "index.json").write_text(theirs)
    for kept in (0, 1):
        assert index_tars(tmp_path).kept_tars == kept
        assert (tmp_path / "index.json").read_text() == theirs
        assert verify(tmp_path) == []


def test_indexing_again_reads_only_what_is_new(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", tar_samples(2))
    first = index_tars(tmp_path)
    again = index_tars(tmp_path)
    assert (again.indexed_tars, again.kept_tars, again.manifest) == (0, 1, first.manifest)
    write_tar(tmp_path / "train-1.tar", tar_samples(2, 5))
    assert (index_tars(tmp_path).indexed_tars, len(read_all(tmp_path))) == (1, 4)
    tar = write_tar(tmp_path / "train-0.tar", tar_samples(1))
    os.utime(tar, ns=(1, 1))
    assert index_tars(tmp_path).kept_tars == 1
    assert sorted(read_all(tmp_path)) == ["s000", "s005", "s006"]
    assert verify(tmp_path) == []


def test_what_was_indexed_before_an_error_is_kept(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", tar_samples(2))
    write_tar(tmp_path / "train-1.tar", {"bad": {**tar_sample(), "jpg": b"no"}})
    with pytest.raises(DataError, match=r"train-1\.tar: bad\.jpg: is not an image"):
        index_tars(tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    write_tar(tmp_path / "train-1.tar", {"good": tar_sample()})
    assert index_tars(tmp_path).kept_tars == 1
    assert not (tmp_path / ".index").exists()


def test_a_failed_indexing_leaves_what_was_there_as_it_was(tmp_path: Path) -> None:
    both = {**tar_sample(), "other.png": as_png(tar_mask(9))}
    for i, members in enumerate((both, tar_sample())):
        write_tar(tmp_path / f"train-{i}.tar", {f"s{i}": members})
    index_tars(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(DataError, match=r"train-1\.tar: s1: has no mask \(\.other\.png\)"):
        index_tars(tmp_path, TarLayout(mask_suffix="other.png"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert index_tars(tmp_path).manifest.hash == json.loads(before["manifest.json"])["hash"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "train-1.tar").unlink()
    assert index_tars(tmp_path).manifest.split("train").num_samples == 1
    assert not list(tmp_path.glob("train-1*"))
    assert verify(tmp_path) == []


@pytest.mark.parametrize("cut_at", [1, 2, 3, 4])
def test_indexing_that_was_cut_off_while_placing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_at: int
) -> None:
    """Of tars that have grown since they were indexed, and grow once more before it goes on."""
    for number in range(2):
        write_tar(tmp_path / f"train-{number}.tar", tar_samples(2, 10 * number))
    index_tars(tmp_path)
    for count in (3, 4):
        for number in range(2):
            write_tar(tmp_path / f"train-{number}.tar", tar_samples(count, 10 * number))
        real, placed = Path.replace, []

        def cut_off(path: Path, target: Path) -> Path:
            if Path(target).suffix in (".idx", ".samples") and Path(target).parent == tmp_path:
                placed.append(target)  # noqa: B023  # called in this round alone
                if len(placed) == cut_at:  # noqa: B023
                    raise KeyboardInterrupt
            return real(path, target)  # noqa: B023

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", cut_off)
            with pytest.raises(KeyboardInterrupt):
                index_tars(tmp_path)
    assert index_tars(tmp_path).manifest.split("train").num_samples == 8
    assert verify(tmp_path) == []
    assert not (tmp_path / ".index").exists()


def test_a_file_where_the_hidden_folder_is_needed_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", tar_samples(1))
    (tmp_path / ".index").write_text("mine")
    with pytest.raises(DataError, match=r"\.index: cannot be written: a file lies where a folder is needed"):
        index_tars(tmp_path)
    assert (tmp_path / ".index").read_text() == "mine"


def test_files_of_others_in_the_hidden_folder_stay(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", tar_samples(1))
    (tmp_path / ".index" / "folder").mkdir(parents=True)
    (tmp_path / ".index" / "notes.json").write_text("mine")
    index_tars(tmp_path)
    assert sorted(path.name for path in (tmp_path / ".index").iterdir()) == ["folder", "notes.json"]
