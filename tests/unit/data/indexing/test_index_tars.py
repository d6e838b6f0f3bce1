"""Indexing tars that others wrote: they stay as they are, and every loader reads from them what stands in them."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from dist_seg.config.schema import AugmentConfig
from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.indexing.index_tars import index_tars
from dist_seg.data.indexing.rules import TarLayout
from dist_seg.data.inspection.summary import inspect
from dist_seg.data.packing.merge import merge
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.classes import read_classes
from dist_seg.data.shards.opened import open_data
from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.data.shards.verify import verify
from dist_seg.errors import DataError, UserError

from ..raw_data import picture
from ..tar_data import HEIGHT, WIDTH, as_png, read_all, tar_mask, tar_sample, tar_samples, write_tar


def test_tars_of_the_webdataset_library_are_read_as_they_are(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=4, verbose=0) as writer:
        for key, members in tar_samples(10).items():
            writer.write({"__key__": key, **members, "meta.json": {"camera": "Öl"}, "cls": 3})
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")}
    result = index_tars(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")} == before
    assert (result.indexed_tars, result.manifest.split("train").num_samples) == (3, 10)
    assert read_all(tmp_path) == {key: (members["jpg"], members["seg.png"]) for key, members in tar_samples(10).items()}
    assert verify(tmp_path) == []


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("before", ["", "./", "some/folder/", "x" * 60 + "/" + "y" * 60 + "/"])
def test_every_format_of_tar_is_read(tmp_path: Path, tar_format: int, before: str) -> None:
    write_tar(tmp_path / "train-0.tar", tar_samples(3), tar_format, before)
    index_tars(tmp_path)
    assert list(read_all(tmp_path).values()) == [(m["jpg"], m["seg.png"]) for m in tar_samples(3).values()]
    assert verify(tmp_path) == []


def test_counts_are_those_of_the_masks(tmp_path: Path) -> None:
    write_tar(tmp_path / "val_1.tar", tar_samples(5))
    split = index_tars(tmp_path).manifest.split("val")
    ids = np.stack([tar_mask(i) for i in range(5)])
    assert split.class_pixels == tuple(int((ids == class_id).sum()) for class_id in range(3))
    held = [tuple(np.unique(tar_mask(i)).tolist()) for i in range(5)]
    (shard,) = split.shards
    sidecar = Sidecar.parse((tmp_path / shard.sidecar_name).read_bytes())
    assert [sidecar.classes(i) for i in range(5)] == held
    assert shard.class_samples == tuple(sum(c in classes for classes in held) for c in range(3))
    inspected = inspect(open_data(tmp_path), out_png=tmp_path / "sheet.png", num_images=2)
    assert inspected.splits[0].num_samples == 5


def test_it_is_trained_on_like_packed_data(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from dist_seg.data.loading.torch_loader import SegmentationDataset

    write_tar(tmp_path / "train-0.tar", tar_samples(2))
    index_tars(tmp_path)
    augment = AugmentConfig(crop_height=16, crop_width=16)
    sample = SegmentationDataset(str(tmp_path), split="train", augment=augment)[1]
    assert sample["key"] == "s001"
    assert sample["image"].shape == (3, 16, 16)


def test_the_index_for_dali_is_what_its_own_tool_writes(tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx", reason="comes with DALI")
    tar = write_tar(tmp_path / "train-0.tar", tar_samples(4))
    with wds2idx.IndexCreator(str(tar), str(tmp_path / "x.idx"), verbose=False) as creator:
        creator.create_index()
    theirs = (tmp_path / "x.idx").read_bytes()
    (tmp_path / "x.idx").unlink()
    index_tars(tmp_path)
    assert (tmp_path / "train-0.idx").read_bytes() == theirs


def test_linked_folders_are_indexed_once(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_tar(folder / "train-0.tar", tar_samples(1))
    write_tar(tmp_path / "disk2" / "train-1.tar", tar_samples(1, 5))
    for link, target in (("b", tmp_path / "disk2"), ("c", tmp_path / "disk2"), ("loop", folder)):
        (folder / link).symlink_to(target, target_is_directory=True)
    names = [shard.name for shard in index_tars(folder).manifest.split("train").shards]
    assert names == ["b/train-1.tar", "train-0.tar"]
    assert sorted(read_all(folder)) == ["s000", "s005"]
    assert verify(folder) == []
    assert index_tars(folder).kept_tars == 2


def test_splits_go_by_names_or_by_patterns(tmp_path: Path) -> None:
    for i, name in enumerate(("train/000.tar", "imagenet-val-0001.tar", "Testing_1.tar")):
        write_tar(tmp_path / name, tar_samples(1, i))
    assert set(index_tars(tmp_path).manifest.splits) == {"train", "val", "test"}
    assert verify(tmp_path) == []
    patterns = {"train": "train/*", "rest": "*_1.tar", "val": "*-val-*"}
    assert set(index_tars(tmp_path, TarLayout(splits=patterns)).manifest.splits) == {"train", "rest", "val"}
    for wrong, message in (({"train": "tr*"}, "matches no --split"), ({**patterns, "b": "*"}, "matches the splits")):
        with pytest.raises(UserError, match=message):
            index_tars(tmp_path, TarLayout(splits=wrong))
    write_tar(tmp_path / "shard-0.tar", tar_samples(1))
    with pytest.raises(UserError, match=r"shard-0\.tar: its name contains no split"):
        index_tars(tmp_path)


def test_a_tar_that_is_not_indexed_yet_is_told_of(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", tar_samples(1))
    (tmp_path / "README").write_text("theirs")
    index_tars(tmp_path)
    write_tar(tmp_path / "train-1.tar", tar_samples(1, 1))
    assert [str(problem) for problem in verify(tmp_path)] == ["train-1.tar: is not in the manifest"]


def test_other_suffixes_may_be_said(tmp_path: Path) -> None:
    samples = {"s": {"IMAGE.PNG": as_png(picture(HEIGHT, WIDTH)), "label.png": as_png(tar_mask())}}
    write_tar(tmp_path / "train-0.tar", samples)
    index_tars(tmp_path, TarLayout(image_suffixes=("image.png",), mask_suffix=".label.png"))
    assert read_all(tmp_path) == {"s": (samples["s"]["IMAGE.PNG"], samples["s"]["label.png"])}
    assert verify(tmp_path) == []


@pytest.mark.parametrize("suffix", ["", "a b", "../x", "a/b"])
def test_a_suffix_must_be_one(tmp_path: Path, suffix: str) -> None:
    write_tar(tmp_path / "train-0.tar", tar_samples(1))
    with pytest.raises(UserError, match="suffix"):
        index_tars(tmp_path, TarLayout(mask_suffix=suffix))


@pytest.mark.parametrize(
    ("text", "ignore", "expected"),
    [
        ("a\nb\nc", None, (3, 255)),
        ("0 a\n1 b\n2 void", None, (2, 2)),
        ("a\nb", 2, (2, 2)),
        ("0 a\n2 b", None, "b has the value 2 in the masks and would be class 1"),
        ("a\nb\nvoid", 3, "2, 3 are all to be ignored"),
        ("a\nb\nc", 1, "the ignored value is 1"),
    ],
)
def test_class_ids_are_those_in_the_masks(
    tmp_path: Path, text: str, ignore: int | None, expected: tuple[int, int] | str
) -> None:
    write_tar(tmp_path / "train-0.tar", tar_samples(3))
    (tmp_path / "names").write_text(text)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            index_tars(tmp_path, TarLayout(classes=read_classes(tmp_path / "names"), ignore_index=ignore))
        return
    manifest = index_tars(tmp_path, TarLayout(classes=read_classes(tmp_path / "names"), ignore_index=ignore)).manifest
    assert (manifest.num_classes, manifest.ignore_index) == expected
    assert verify(tmp_path) == []


def test_without_names_classes_are_the_ids_up_to_the_largest(tmp_path: Path) -> None:
    mask = np.where(tar_mask(classes=2) == 1, 4, 0).astype(np.uint8)
    write_tar(tmp_path / "train-0.tar", {"s": {**tar_sample(), "seg.png": as_png(mask)}})
    result = index_tars(tmp_path)
    assert result.manifest.class_names == tuple(f"class_{i}" for i in range(5))
    assert "no pixel has the value 1, 2, 3" in result.notes[0]
    assert result.manifest.split("train").shards[0].class_samples == (1, 0, 0, 0, 1)
    write_tar(tmp_path / "train-1.tar", {"t": {**tar_sample(), "seg.png": as_png(mask * 3)}})
    more = index_tars(tmp_path)
    assert (more.kept_tars, more.manifest.num_classes) == (1, 13)
    assert [len(shard.class_samples or ()) for shard in more.manifest.split("train").shards] == [13, 13]
    assert verify(tmp_path) == []
    (tmp_path / "train-1.tar").unlink()
    write_tar(tmp_path / "train-0.tar", {"s": {**tar_sample(), "seg.png": as_png(mask // 4 * 255)}})
    with pytest.raises(DataError, match="the masks hold the values 0, 255, and 255 is ignored"):
        index_tars(tmp_path)


def test_packed_and_indexed_data_do_not_get_in_each_other_s_way(tmp_path: Path) -> None:
    scenes = SyntheticSource(num_train=2, num_val=0, height=HEIGHT, width=WIDTH)
    pack(scenes, tmp_path / "packed")
    with pytest.raises(DataError, match="holds a data set that was packed"):
        index_tars(tmp_path / "packed")
    tar = write_tar(tmp_path / "theirs" / "train-000000.tar", tar_samples(1))
    before = tar.read_bytes()
    index_tars(tmp_path / "theirs")
    with pytest.raises(DataError, match="indexed tars that dist-seg did not write"):
        pack(scenes, tmp_path / "theirs", overwrite=True)
    assert tar.read_bytes() == before


def test_indexed_tars_are_merged_to_the_byte(tmp_path: Path) -> None:
    for name, start in (("a", 0), ("b", 5)):
        write_tar(tmp_path / name / "sub" / "train-7.tar", tar_samples(2, start))
        index_tars(tmp_path / name)
    result = merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "b"])
    assert (result.links, result.copies) == (0, 2)  # Their owners may write to the tars again.
    assert verify(tmp_path / "merged") == []
    assert sorted(read_all(tmp_path / "merged")) == ["s000", "s001", "s005", "s006"]
    again = merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "b"])
    assert (again.links, again.copies) == (0, 0)


def test_a_folder_without_tars_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.tar"):
        index_tars(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        index_tars(tmp_path / "none")
