"""Indexing tars that others wrote: they stay as they are, and every loader reads from them what stands in them."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.config.schema import AugmentConfig
from dist_seg.data.formats.classes import read_classes
from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.index import index
from dist_seg.data.inspect import inspect
from dist_seg.data.manifest_parsing import load_manifest
from dist_seg.data.merge import merge
from dist_seg.data.opened import open_data
from dist_seg.data.pack import pack
from dist_seg.data.reader import ShardReader
from dist_seg.data.sidecar import Sidecar
from dist_seg.data.verify import verify
from dist_seg.errors import DataError, UserError
from dist_seg.runtime.storage import open_storage

from .raw_data import encoded, picture

_HEIGHT, _WIDTH = 20, 30


def _mask(seed: int = 0, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, (_HEIGHT, _WIDTH), dtype=np.uint8)


def _png(array: np.ndarray) -> bytes:
    return encoded(Image.fromarray(array), "PNG")


def _sample(seed: int = 0) -> dict[str, bytes]:
    return {
        "jpg": encoded(Image.fromarray(picture(_HEIGHT, _WIDTH, seed)), "JPEG"),
        "seg.png": _png(_mask(seed)),
    }


def _samples(count: int, start: int = 0) -> dict[str, dict[str, bytes]]:
    return {f"s{i:03d}": _sample(i) for i in range(start, start + count)}


def _write_tar(
    path: Path, samples: Mapping[str, Mapping[str, bytes]], tar_format: int = tarfile.PAX_FORMAT, before: str = ""
) -> Path:
    """As other tools do: with times, owners, modes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for key, members in samples.items():
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{before}{key}.{suffix}")
                info.size, info.mode, info.mtime, info.uname, info.uid = len(data), 0o444, 1.5e9 + 0.25, "bigdata", 7
                tar.addfile(info, io.BytesIO(data))
    return path


def _read(folder: Path, split: str = "train") -> dict[str, tuple[bytes, bytes]]:
    storage = open_storage(folder)
    reader = ShardReader(storage, load_manifest(storage), split)
    samples = (reader.read(shard, i) for shard, count in enumerate(reader.shard_samples) for i in range(count))
    return {sample.key: (sample.image, sample.target) for sample in samples}


def test_tars_of_the_webdataset_library_are_read_as_they_are(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=4, verbose=0) as writer:
        for key, members in _samples(10).items():
            writer.write({"__key__": key, **members, "meta.json": {"camera": "Öl"}, "cls": 3})
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")}
    result = index(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")} == before
    assert (result.indexed_tars, result.manifest.split("train").num_samples) == (3, 10)
    assert _read(tmp_path) == {key: (members["jpg"], members["seg.png"]) for key, members in _samples(10).items()}
    assert verify(tmp_path) == []


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("before", ["", "./", "some/folder/", "x" * 60 + "/" + "y" * 60 + "/"])
def test_every_format_of_tar_is_read(tmp_path: Path, tar_format: int, before: str) -> None:
    _write_tar(tmp_path / "train-0.tar", _samples(3), tar_format, before)
    index(tmp_path)
    assert list(_read(tmp_path).values()) == [(m["jpg"], m["seg.png"]) for m in _samples(3).values()]
    assert verify(tmp_path) == []


def test_counts_are_those_of_the_masks(tmp_path: Path) -> None:
    _write_tar(tmp_path / "val_1.tar", _samples(5))
    split = index(tmp_path).manifest.split("val")
    ids = np.stack([_mask(i) for i in range(5)])
    assert split.class_pixels == tuple(int((ids == class_id).sum()) for class_id in range(3))
    held = [tuple(np.unique(_mask(i)).tolist()) for i in range(5)]
    (shard,) = split.shards
    sidecar = Sidecar.parse((tmp_path / shard.sidecar_name).read_bytes())
    assert [sidecar.classes(i) for i in range(5)] == held
    assert shard.class_samples == tuple(sum(c in classes for classes in held) for c in range(3))
    inspected = inspect(open_data(tmp_path), out_png=tmp_path / "sheet.png", num_images=2)
    assert inspected.splits[0].num_samples == 5


def test_it_is_trained_on_like_packed_data(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from dist_seg.data.torch_loader import SegmentationDataset

    _write_tar(tmp_path / "train-0.tar", _samples(2))
    index(tmp_path)
    augment = AugmentConfig(crop_height=16, crop_width=16)
    sample = SegmentationDataset(str(tmp_path), split="train", augment=augment)[1]
    assert sample["key"] == "s001"
    assert sample["image"].shape == (3, 16, 16)


def test_the_index_for_dali_is_what_its_own_tool_writes(tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx", reason="comes with DALI")
    tar = _write_tar(tmp_path / "train-0.tar", _samples(4))
    with wds2idx.IndexCreator(str(tar), str(tmp_path / "x.idx"), verbose=False) as creator:
        creator.create_index()
    theirs = (tmp_path / "x.idx").read_bytes()
    (tmp_path / "x.idx").unlink()
    index(tmp_path)
    assert (tmp_path / "train-0.idx").read_bytes() == theirs


def test_an_index_of_dali_s_tool_that_is_there_stays(tmp_path: Path) -> None:
    _write_tar(tmp_path / "train-0.tar", {"a": {**_sample(), "txt": b"x"}})
    index(tmp_path)
    line = (tmp_path / "train-0.idx").read_text()
    for path in (*tmp_path.glob("*.json"), tmp_path / "train-0.samples"):
        path.unlink()
    theirs = line.rstrip("\n") + " txt 9999 1 a.txt\n"
    (tmp_path / "train-0.idx").write_text(theirs)
    index(tmp_path)
    assert (tmp_path / "train-0.idx").read_text() == theirs
    assert verify(tmp_path) == []


def test_files_of_others_are_never_written_over(tmp_path: Path) -> None:
    _write_tar(tmp_path / "train-0.tar", _samples(1))
    for name in ("train-0.idx", "train-0.samples"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(DataError, match=rf"{name}: was written by others"):
            index(tmp_path)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_a_list_of_shards_by_webdataset_stays(tmp_path: Path) -> None:
    """Its wids calls it index.json; ours lies beside it."""
    _write_tar(tmp_path / "train-0.tar", _samples(1))
    theirs = json.dumps({"wids_version": 1, "shardlist": [{"url": "train-0.tar", "nsamples": 1}]})
    (tmp_path / "index.json").write_text(theirs)
    for kept in (0, 1):
        assert index(tmp_path).kept_tars == kept
        assert (tmp_path / "index.json").read_text() == theirs
        assert verify(tmp_path) == []


def test_indexing_again_reads_only_what_is_new(tmp_path: Path) -> None:
    _write_tar(tmp_path / "train-0.tar", _samples(2))
    first = index(tmp_path)
    again = index(tmp_path)
    assert (again.indexed_tars, again.kept_tars, again.manifest) == (0, 1, first.manifest)
    _write_tar(tmp_path / "train-1.tar", _samples(2, 5))
    assert (index(tmp_path).indexed_tars, len(_read(tmp_path))) == (1, 4)
    tar = _write_tar(tmp_path / "train-0.tar", _samples(1))
    os.utime(tar, ns=(1, 1))
    assert index(tmp_path).kept_tars == 1
    assert sorted(_read(tmp_path)) == ["s000", "s005", "s006"]
    assert verify(tmp_path) == []


def test_what_was_indexed_before_an_error_is_kept(tmp_path: Path) -> None:
    _write_tar(tmp_path / "train-0.tar", _samples(2))
    _write_tar(tmp_path / "train-1.tar", {"bad": {**_sample(), "jpg": b"no"}})
    with pytest.raises(DataError, match=r"train-1\.tar: bad\.jpg: is not an image"):
        index(tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    _write_tar(tmp_path / "train-1.tar", {"good": _sample()})
    assert index(tmp_path).kept_tars == 1
    assert not (tmp_path / ".index").exists()


_ROTATED = Image.Exif()
_ROTATED[0x0112] = 6
_BAD = {
    "16 bits": ({"seg.png": _png(_mask().astype(np.uint16))}, r"\.seg\.png: must be an 8-bit grey PNG.*16-bit PNG"),
    "colours": ({"seg.png": _png(picture(_HEIGHT, _WIDTH))}, "must be an 8-bit grey PNG"),
    "palette": ({"seg.png": encoded(Image.fromarray(_mask()).convert("P"), "PNG")}, "must be an 8-bit grey PNG"),
    "jpeg mask": ({"seg.png": encoded(Image.fromarray(_mask()), "JPEG")}, "8-bit JPEG"),
    "half a mask": ({"seg.png": _png(_mask())[:90]}, "PNG that is cut off"),
    "another size": ({"seg.png": _png(_mask()[:9])}, "30x9 pixels, the image has 30x20"),
    "no mask": ({"seg.png": None}, r"has no mask \(\.seg\.png\) among its members jpg; .*--mask-suffix"),
    "no image": ({"jpg": None, "webp": b"x"}, r"has no image \(\.jpg, \.jpeg, \.png\)"),
    "two images": ({"png": _png(picture(_HEIGHT, _WIDTH))}, "has 2 images"),
    "half an image": ({"jpg": _sample()["jpg"][:300]}, "cannot be decoded"),
    "turned": (
        {"jpg": encoded(Image.fromarray(picture(_HEIGHT, _WIDTH)), "JPEG", exif=_ROTATED.tobytes())},
        r"\.jpg: cannot be trained on as it is \(an EXIF orientation",
    ),
    "transparent": ({"jpg": None, "png": _png(np.zeros((_HEIGHT, _WIDTH, 4), np.uint8))}, "has transparent pixels"),
    "no such class": ({"seg.png": _png(_mask(classes=9))}, r"class id \d .*the data set has 3 classes"),
}


@pytest.mark.parametrize("name", _BAD)
def test_a_sample_that_cannot_be_used_is_named_or_left_out(tmp_path: Path, name: str) -> None:
    changes, message = _BAD[name]
    bad = {suffix: data for suffix, data in {**_sample(), **changes}.items() if data is not None}
    tar = _write_tar(tmp_path / "train-0.tar", {"good": _sample(1), "s": bad})
    before = tar.read_bytes()
    (tmp_path / "names").write_text("a\nb\nc\n")
    classes = read_classes(tmp_path / "names")
    with pytest.raises(DataError, match=rf"(?s)train-0\.tar: s.*{message}.*--skip-bad"):
        index(tmp_path, classes=classes)
    result = index(tmp_path, classes=classes, skip_bad=True)
    split = result.manifest.split("train")
    assert (split.num_samples, split.skipped_samples, [r.key for r in result.skipped]) == (1, 1, ["s"])
    assert list(_read(tmp_path)) == ["good"]
    assert verify(tmp_path) == []
    assert tar.read_bytes() == before


def test_a_tar_that_cannot_be_read_in_place_is_refused(tmp_path: Path) -> None:
    tar = _write_tar(tmp_path / "train-0.tar", _samples(2))
    whole = tar.read_bytes()
    for data, message in (
        (whole[:3000], "ends without the mark .* cut off, or still being written"),
        (whole.rstrip(b"\0"), "ends without the mark .* cut off, or still being written"),
        (whole + whole, "goes on behind the mark at its end"),
        (b"\x1f\x8b" + whole, "is packed with gzip"),
        (b"x" * 5000, "has no header of a tar at byte 0"),
    ):
        tar.write_bytes(data)
        with pytest.raises(DataError, match=rf"train-0\.tar: {message}"):
            index(tmp_path, skip_bad=True)
    tar.rename(tmp_path / "train-0.tar.gz")
    with pytest.raises(DataError, match=r"train-0\.tar\.gz: is packed"):
        index(tmp_path)


def test_members_of_a_sample_must_lie_together(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for suffix in ("jpg", "seg.png"):
            for key, members in _samples(2).items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(members[suffix])
                tar.addfile(info, io.BytesIO(members[suffix]))
    with pytest.raises(DataError, match=r"'s000\.seg\.png' away from the others of its sample.*--sort=name"):
        index(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (tarfile.SYMTYPE, "s000.txt", "a symbolic link"),
        (tarfile.LNKTYPE, "s000.txt", "a hard link"),
        (tarfile.REGTYPE, "../x", "leads out of the folder"),
        (tarfile.REGTYPE, "/etc/x", "leads out of the folder"),
        (tarfile.REGTYPE, "ö" * 200 + "/../../x", "leads out of the folder"),
    ],
)
def test_a_tar_that_is_made_to_harm_is_refused_and_found(tmp_path: Path, kind: bytes, name: str, message: str) -> None:
    tar_path = _write_tar(tmp_path / "train-0.tar", _samples(1))
    index(tmp_path)
    with tarfile.open(tar_path, "a") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DataError, match=message):
        index(tmp_path)
    _admit(tmp_path, tar_path)
    assert [message in problem.reason for problem in verify(tmp_path)] == [True]


def _admit(folder: Path, tar: Path) -> None:
    """The manifest says that the tar is as it is now."""
    import hashlib

    from dist_seg.data.manifest_parsing import parse_manifest

    document = json.loads((folder / "manifest.json").read_text())
    shard = document["splits"]["train"]["shards"][0]
    shard["bytes"], shard["sha256"] = tar.stat().st_size, hashlib.sha256(tar.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(parse_manifest(json.dumps(document).encode(), "x").to_json())


def test_a_failed_indexing_leaves_what_was_there_as_it_was(tmp_path: Path) -> None:
    both = {**_sample(), "other.png": _png(_mask(9))}
    for i, members in enumerate((both, _sample())):
        _write_tar(tmp_path / f"train-{i}.tar", {f"s{i}": members})
    index(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(DataError, match=r"train-1\.tar: s1: has no mask \(\.other\.png\)"):
        index(tmp_path, mask_suffix="other.png")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert index(tmp_path).manifest.hash == json.loads(before["manifest.json"])["hash"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "train-1.tar").unlink()
    assert index(tmp_path).manifest.split("train").num_samples == 1
    assert not list(tmp_path.glob("train-1*"))
    assert verify(tmp_path) == []


@pytest.mark.parametrize("cut_at", [1, 2, 3, 4])
def test_indexing_that_was_cut_off_while_placing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_at: int
) -> None:
    """Of tars that have grown since they were indexed, and grow once more before it goes on."""
    for number in range(2):
        _write_tar(tmp_path / f"train-{number}.tar", _samples(2, 10 * number))
    index(tmp_path)
    for count in (3, 4):
        for number in range(2):
            _write_tar(tmp_path / f"train-{number}.tar", _samples(count, 10 * number))
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
                index(tmp_path)
    assert index(tmp_path).manifest.split("train").num_samples == 8
    assert verify(tmp_path) == []
    assert not (tmp_path / ".index").exists()


def test_a_file_where_the_hidden_folder_is_needed_is_named(tmp_path: Path) -> None:
    _write_tar(tmp_path / "train-0.tar", _samples(1))
    (tmp_path / ".index").write_text("mine")
    with pytest.raises(DataError, match=r"\.index: cannot be written: a file lies where a folder is needed"):
        index(tmp_path)
    assert (tmp_path / ".index").read_text() == "mine"


def test_files_of_others_in_the_hidden_folder_stay(tmp_path: Path) -> None:
    _write_tar(tmp_path / "train-0.tar", _samples(1))
    (tmp_path / ".index" / "folder").mkdir(parents=True)
    (tmp_path / ".index" / "notes.json").write_text("mine")
    index(tmp_path)
    assert sorted(path.name for path in (tmp_path / ".index").iterdir()) == ["folder", "notes.json"]


def test_linked_folders_are_indexed_once(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _write_tar(folder / "train-0.tar", _samples(1))
    _write_tar(tmp_path / "disk2" / "train-1.tar", _samples(1, 5))
    for link, target in (("b", tmp_path / "disk2"), ("c", tmp_path / "disk2"), ("loop", folder)):
        (folder / link).symlink_to(target, target_is_directory=True)
    names = [shard.name for shard in index(folder).manifest.split("train").shards]
    assert names == ["b/train-1.tar", "train-0.tar"]
    assert sorted(_read(folder)) == ["s000", "s005"]
    assert verify(folder) == []
    assert index(folder).kept_tars == 2


def test_splits_go_by_names_or_by_patterns(tmp_path: Path) -> None:
    for i, name in enumerate(("train/000.tar", "imagenet-val-0001.tar", "Testing_1.tar")):
        _write_tar(tmp_path / name, _samples(1, i))
    assert set(index(tmp_path).manifest.splits) == {"train", "val", "test"}
    assert verify(tmp_path) == []
    patterns = {"train": "train/*", "rest": "*_1.tar", "val": "*-val-*"}
    assert set(index(tmp_path, splits=patterns).manifest.splits) == {"train", "rest", "val"}
    for wrong, message in (({"train": "tr*"}, "fits no --split"), ({**patterns, "b": "*"}, "fits the splits")):
        with pytest.raises(UserError, match=message):
            index(tmp_path, splits=wrong)
    _write_tar(tmp_path / "shard-0.tar", _samples(1))
    with pytest.raises(UserError, match=r"shard-0\.tar: its name says no split"):
        index(tmp_path)


def test_a_tar_that_is_not_indexed_yet_is_told_of(tmp_path: Path) -> None:
    _write_tar(tmp_path / "train-0.tar", _samples(1))
    (tmp_path / "README").write_text("theirs")
    index(tmp_path)
    _write_tar(tmp_path / "train-1.tar", _samples(1, 1))
    assert [str(problem) for problem in verify(tmp_path)] == ["train-1.tar: is not in the manifest"]


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    for name in ("train-0.tar", "train-1.tar"):
        _write_tar(tmp_path / name, _samples(2))
    with pytest.raises(DataError, match=r"train-0\.tar and .*train-1\.tar: the key 's000' comes twice in split train"):
        index(tmp_path)


def test_other_suffixes_may_be_said(tmp_path: Path) -> None:
    samples = {"s": {"IMAGE.PNG": _png(picture(_HEIGHT, _WIDTH)), "label.png": _png(_mask())}}
    _write_tar(tmp_path / "train-0.tar", samples)
    index(tmp_path, image_suffixes=["image.png"], mask_suffix=".label.png")
    assert _read(tmp_path) == {"s": (samples["s"]["IMAGE.PNG"], samples["s"]["label.png"])}
    assert verify(tmp_path) == []


@pytest.mark.parametrize("suffix", ["", "a b", "../x", "a/b"])
def test_a_suffix_must_be_one(tmp_path: Path, suffix: str) -> None:
    _write_tar(tmp_path / "train-0.tar", _samples(1))
    with pytest.raises(UserError, match="suffix"):
        index(tmp_path, mask_suffix=suffix)


@pytest.mark.parametrize(
    ("text", "ignore", "expected"),
    [
        ("a\nb\nc", None, (3, 255)),
        ("0 a\n1 b\n2 void", None, (2, 2)),
        ("a\nb", 2, (2, 2)),
        ("0 a\n2 b", None, "b has the number 2 in the masks and would be class 1"),
        ("a\nb\nvoid", 3, "2, 3 are all to be ignored"),
        ("a\nb\nc", 1, "the ignored number is 1"),
    ],
)
def test_class_ids_are_those_in_the_masks(
    tmp_path: Path, text: str, ignore: int | None, expected: tuple[int, int] | str
) -> None:
    _write_tar(tmp_path / "train-0.tar", _samples(3))
    (tmp_path / "names").write_text(text)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            index(tmp_path, classes=read_classes(tmp_path / "names"), ignore_index=ignore)
        return
    manifest = index(tmp_path, classes=read_classes(tmp_path / "names"), ignore_index=ignore).manifest
    assert (manifest.num_classes, manifest.ignore_index) == expected
    assert verify(tmp_path) == []


def test_without_names_classes_are_the_ids_up_to_the_largest(tmp_path: Path) -> None:
    mask = np.where(_mask(classes=2) == 1, 4, 0).astype(np.uint8)
    _write_tar(tmp_path / "train-0.tar", {"s": {**_sample(), "seg.png": _png(mask)}})
    result = index(tmp_path)
    assert result.manifest.class_names == tuple(f"class_{i}" for i in range(5))
    assert "no pixel has 1, 2, 3" in result.notes[0]
    assert result.manifest.split("train").shards[0].class_samples == (1, 0, 0, 0, 1)
    _write_tar(tmp_path / "train-1.tar", {"t": {**_sample(), "seg.png": _png(mask * 3)}})
    more = index(tmp_path)
    assert (more.kept_tars, more.manifest.num_classes) == (1, 13)
    assert [len(shard.class_samples or ()) for shard in more.manifest.split("train").shards] == [13, 13]
    assert verify(tmp_path) == []
    (tmp_path / "train-1.tar").unlink()
    _write_tar(tmp_path / "train-0.tar", {"s": {**_sample(), "seg.png": _png(mask // 4 * 255)}})
    with pytest.raises(DataError, match="the masks hold the numbers 0, 255, of which 255 is ignored"):
        index(tmp_path)


def test_packed_and_indexed_data_do_not_get_in_each_other_s_way(tmp_path: Path) -> None:
    scenes = SyntheticSource(num_train=2, num_val=0, height=_HEIGHT, width=_WIDTH)
    pack(scenes, tmp_path / "packed")
    with pytest.raises(DataError, match="holds a data set that was packed"):
        index(tmp_path / "packed")
    tar = _write_tar(tmp_path / "theirs" / "train-000000.tar", _samples(1))
    before = tar.read_bytes()
    index(tmp_path / "theirs")
    with pytest.raises(DataError, match="tars that others wrote"):
        pack(scenes, tmp_path / "theirs", overwrite=True)
    assert tar.read_bytes() == before


def test_indexed_tars_are_merged_without_being_rewritten(tmp_path: Path) -> None:
    for name, start in (("a", 0), ("b", 5)):
        _write_tar(tmp_path / name / "sub" / "train-7.tar", _samples(2, start))
        index(tmp_path / name)
    result = merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "b"])
    assert result.links == 2
    assert verify(tmp_path / "merged") == []
    assert sorted(_read(tmp_path / "merged")) == ["s000", "s001", "s005", "s006"]
    assert merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "b"]).links == 0


def test_a_folder_without_tars_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.tar"):
        index(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        index(tmp_path / "none")
