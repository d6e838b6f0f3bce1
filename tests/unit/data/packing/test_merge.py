"""Packing in parts and merging: what one machine would have packed, and nothing that does not belong together."""

import errno
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dist_seg.data.formats.synthetic import SyntheticInstances, SyntheticSource
from dist_seg.data.indexing.index_tars import index_tars
from dist_seg.data.packing.link import Transfer, link_or_copy
from dist_seg.data.packing.merge import merge
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.packing.parts import Part
from dist_seg.data.raw.source import AnySource, SampleRef
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.data.shards.verify import verify
from dist_seg.errors import DataError, UserError
from dist_seg.storage.object_store import open_storage

from ..tar_data import tar_samples, write_tar

_SCENES = SyntheticSource(num_train=12, num_val=4, height=32, width=32)
_SHARD_BYTES = 10_000


def _pack_parts(source: AnySource, out: Path, count: int) -> list[Path]:
    parts = [Part(number=number, count=count) for number in range(1, count + 1)]
    for part in parts:
        pack(source, out / part.folder_name, PackOptions(shard_bytes=_SHARD_BYTES), part=part)
    return [out / part.folder_name for part in parts]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("count", [1, 2, 3, 11])
@pytest.mark.parametrize("source", [_SCENES, SyntheticInstances(scenes=_SCENES)], ids=["classes", "instances"])
def test_merged_parts_are_what_one_machine_packs(tmp_path: Path, source: AnySource, count: int) -> None:
    whole = pack(source, tmp_path / "whole", PackOptions(shard_bytes=_SHARD_BYTES))
    _pack_parts(source, tmp_path / "merged", count)
    result = merge(tmp_path / "merged")
    assert _files(tmp_path / "merged") == _files(tmp_path / "whole")
    assert (result.manifest, result.parts) == (whole.manifest, count)
    assert verify(tmp_path / "merged") == []
    assert pack(source, tmp_path / "merged", PackOptions(shard_bytes=_SHARD_BYTES)).written_shards == 0


def test_every_shard_is_of_one_part(tmp_path: Path) -> None:
    names = [{name for name in _files(f) if name.endswith(".tar")} for f in _pack_parts(_SCENES, tmp_path, 4)]
    assert sum(map(len, names)) == len(set().union(*names)) == 6
    assert all(1 <= len(of_part) <= 2 for of_part in names)


def test_a_part_is_no_data_set(tmp_path: Path) -> None:
    (part,) = _pack_parts(_SCENES, tmp_path, 1)
    with pytest.raises(DataError, match=r"manifest\.json: no such file"):
        verify(part)


def test_a_part_goes_on_where_it_was_cut_off_and_is_finished_once(tmp_path: Path) -> None:
    (first, _) = _pack_parts(_SCENES, tmp_path, 2)
    before, again = _files(first), Part(number=1, count=2)
    assert pack(_SCENES, first, PackOptions(shard_bytes=_SHARD_BYTES), part=again).written_shards == 0
    (first / "train-000000.tar").unlink()
    (first / "part.json").unlink()
    mended = pack(_SCENES, first, PackOptions(shard_bytes=_SHARD_BYTES), part=again)
    assert (mended.written_shards, mended.kept_shards) == (1, 2)
    assert _files(first) == before


def test_a_part_without_shards_may_be_packed_again(tmp_path: Path) -> None:
    last = _pack_parts(_SCENES, tmp_path, 7)[-1]
    assert sorted(_files(last)) == ["pack.json", "part.json"]
    assert pack(_SCENES, last, PackOptions(shard_bytes=_SHARD_BYTES), part=Part(number=7, count=7)).kept_shards == 0


def test_a_data_set_is_not_written_over_by_a_part_nor_a_part_by_a_data_set(tmp_path: Path) -> None:
    part = Part(number=1, count=1)
    pack(_SCENES, tmp_path / "whole")
    with pytest.raises(DataError, match="holds a data set"):
        pack(_SCENES, tmp_path / "whole", part=part)
    pack(_SCENES, tmp_path / "part", part=part)
    with pytest.raises(DataError, match="holds a part of a data set"):
        pack(_SCENES, tmp_path / "part")


def test_merging_is_done_without_rewriting_and_leaves_the_parts(tmp_path: Path) -> None:
    folders = _pack_parts(_SCENES, tmp_path / "parts", 2)
    before = [_files(folder) for folder in folders]
    result = merge(tmp_path / "merged", folders)
    assert (result.links, result.copies) == (6, 0)
    shard = next(folders[0].glob("*.tar"))
    assert (tmp_path / "merged" / shard.name).samefile(shard)
    assert [_files(folder) for folder in folders] == before


def test_tars_that_others_wrote_are_copied_as_they_may_write_to_them_again(tmp_path: Path) -> None:
    for name, start in (("a", 0), ("b", 3)):
        write_tar(tmp_path / name / "train-0.tar", tar_samples(3, start))
        index_tars(tmp_path / name)
    result = merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "b"])
    assert (result.links, result.copies) == (0, 2)
    (tmp_path / "a" / "train-0.tar").write_bytes(b"begun anew")
    assert verify(tmp_path / "merged") == []


def test_where_there_are_no_links_shards_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    folders = _pack_parts(_SCENES, tmp_path / "parts", 2)
    monkeypatch.setattr(os, "link", refuse)
    result = merge(tmp_path / "merged", folders)
    assert (result.links, result.copies) == (0, 6)
    assert verify(tmp_path / "merged") == []
    damaged = bytearray((folders[0] / "train-000000.tar").read_bytes())
    damaged[600] ^= 1
    (folders[0] / "train-000000.tar").write_bytes(damaged)
    with pytest.raises(DataError, match=r"train-000000\.tar: differs from what was packed"):
        merge(tmp_path / "other", folders)
    assert not (tmp_path / "other" / "manifest.json").exists()


def test_merging_again_does_nothing_and_after_an_interruption_the_rest(tmp_path: Path) -> None:
    folders = _pack_parts(_SCENES, tmp_path / "parts", 2)
    merge(tmp_path / "merged", folders)
    before = _files(tmp_path / "merged")
    assert merge(tmp_path / "merged", folders).links == 0
    (tmp_path / "merged" / "manifest.json").unlink()
    (tmp_path / "merged" / "train-000001.tar").unlink()
    assert merge(tmp_path / "merged", folders).links == 1
    assert _files(tmp_path / "merged") == before


def test_what_an_earlier_version_merged_and_laid_out_in_other_lines_is_merged_on(tmp_path: Path) -> None:
    folders = _pack_parts(_SCENES, tmp_path / "parts", 2)
    manifest = merge(tmp_path / "merged", folders).manifest
    path = tmp_path / "merged" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")), indent=1), "utf-8")
    (tmp_path / "merged" / "train-000001.tar").unlink()
    assert merge(tmp_path / "merged", folders).links == 1
    assert path.read_text("utf-8") == manifest.to_json()


def test_a_missing_or_repeated_part_is_named(tmp_path: Path) -> None:
    one, two, three = _pack_parts(_SCENES, tmp_path / "parts", 3)
    with pytest.raises(DataError, match=r"missing: part 2/3; pack it"):
        merge(tmp_path / "merged", [one, three])
    other = one.rename(tmp_path / "again")
    _pack_parts(_SCENES, tmp_path / "parts", 3)
    with pytest.raises(DataError, match=r"are both part 1/3"):
        merge(tmp_path / "merged", [one, two, three, other])
    with pytest.raises(UserError, match="the same folder"):
        merge(tmp_path / "merged", [one, two, three, one])
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("other", "count", "shard_bytes", "message"),
    [
        (replace(_SCENES, num_train=11), 2, _SHARD_BYTES, "different lists of 16 and 15 samples"),
        (_SCENES, 3, _SHARD_BYTES, "part 1/2, .* part 2/3; the number of parts must be the same"),
        (_SCENES, 2, 20_000, r"packed with --shard-mb 0\.01, .* with 0\.02"),
        (SyntheticInstances(scenes=_SCENES), 2, _SHARD_BYTES, "do not go together: task is 'semantic' and 'instance'"),
    ],
)
def test_parts_of_different_packings_are_refused(
    tmp_path: Path, other: AnySource, count: int, shard_bytes: int, message: str
) -> None:
    pack(_SCENES, tmp_path / "a", PackOptions(shard_bytes=_SHARD_BYTES), part=Part(number=1, count=2))
    pack(other, tmp_path / "b", PackOptions(shard_bytes=shard_bytes), part=Part(number=2, count=count))
    with pytest.raises(DataError, match=message):
        merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "b"])


def test_a_part_of_an_earlier_version_is_to_be_packed_again(tmp_path: Path) -> None:
    one, two = _pack_parts(_SCENES, tmp_path, 2)
    document = json.loads((one / "part.json").read_text())
    del document["contents"]
    (one / "part.json").write_text(json.dumps({**document, "format_version": 1}))
    with pytest.raises(DataError, match=r"part\.json: format_version is 1, .* pack the part again"):
        merge(tmp_path / "merged", [one, two])
    assert pack(_SCENES, one, PackOptions(shard_bytes=_SHARD_BYTES), part=Part(number=1, count=2)).written_shards == 0
    merge(tmp_path / "merged", [one, two])


def test_damage_of_a_part_s_records_or_indexes_is_named(tmp_path: Path) -> None:
    one, two = _pack_parts(_SCENES, tmp_path / "parts", 2)
    (one / "train-000000.samples").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-000000\.samples: differs from what was packed"):
        merge(tmp_path / "merged", [one, two])
    (two / "pack.json").write_text("[]")
    with pytest.raises(DataError, match=r"pack\.json: differs from what was packed"):
        merge(tmp_path / "merged", [one, two])
    (two / "part.json").write_text("{}")
    with pytest.raises(DataError, match=r"part\.json: format_version is missing; pack the part again"):
        merge(tmp_path / "merged", [one, two])


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_part_is_written_as_one_of_so_many(text: str) -> None:
    with pytest.raises(UserError, match="--part"):
        Part.parse(text)
    assert Part.parse("2/10").folder_name == "part-02-of-10"


@dataclass(frozen=True)
class _Of:
    """Several sources' samples, their keys prefixed with the source's number."""

    sources: dict[int, AnySource]

    def __getattr__(self, name: str) -> object:
        return getattr(next(iter(self.sources.values())), name)

    def samples(self) -> list[SampleRef]:
        return [replace(r, key=f"{i}{r.key}") for i, source in self.sources.items() for r in source.samples()]

    def load(self, sample: SampleRef) -> object:
        return self.sources[int(sample.key[0])].load(replace(sample, key=sample.key[1:]))


def _keys(folder: Path) -> list[str]:
    storage = open_storage(folder)
    shards = [s for split in load_manifest(storage).splits.values() for s in split.shards]
    sidecars = [Sidecar.parse(storage.read(s.sidecar_name)) for s in shards]
    return sorted(key for sidecar in sidecars for key in sidecar.keys())  # noqa: SIM118  # no mapping


@pytest.mark.parametrize("instances", [False, True])
def test_data_sets_of_the_same_classes_become_one(tmp_path: Path, instances: bool) -> None:
    """All counts are as if both had been packed at once, percentiles of the objects' sides included."""
    scenes = {0: _SCENES, 1: SyntheticSource(num_train=5, num_val=0, height=48, width=32, seed=1)}
    sources: dict[int, AnySource] = {i: SyntheticInstances(scenes=s) if instances else s for i, s in scenes.items()}
    for i, source in sources.items():
        pack(_Of({i: source}), tmp_path / str(i), PackOptions(shard_bytes=_SHARD_BYTES))  # type: ignore[arg-type]  # a Source
    both = pack(_Of(sources), tmp_path / "both", PackOptions(shard_bytes=_SHARD_BYTES)).manifest  # type: ignore[arg-type]
    merged = merge(tmp_path / "merged", [tmp_path / "0", tmp_path / "1"]).manifest
    assert verify(tmp_path / "merged") == []
    assert _keys(tmp_path / "merged") == _keys(tmp_path / "both")
    for name, split in merged.splits.items():
        assert replace(split, shards=()) == replace(both.split(name), shards=())
    shards = [load_manifest(open_storage(tmp_path / str(i))).split("train").shards for i in scenes]
    assert [s.sha256 for s in merged.split("train").shards] == [s.sha256 for of_set in shards for s in of_set]
    assert [s.name for s in merged.split("train").shards] == [
        f"train-{i:06d}.tar" for i in range(sum(map(len, shards)))
    ]
    assert merge(tmp_path / "merged", [tmp_path / "0", tmp_path / "1"]).links == 0


def test_a_key_in_two_data_sets_is_refused_by_name(tmp_path: Path) -> None:
    pack(_SCENES, tmp_path / "a")
    pack(replace(_SCENES, num_train=1, num_val=0, seed=3), tmp_path / "b")
    key = _keys(tmp_path / "b")[0]
    with pytest.raises(DataError, match=rf"a/train-000000\.tar and .*b/train-000000\.tar: the key '{key}' is twice"):
        merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "b"])


@dataclass(frozen=True)
class _Renamed:
    """Samples with keys and splits of one's own; the same names stand for the same images or not."""

    splits: dict[str, tuple[str, ...]]

    def __getattr__(self, name: str) -> object:
        return getattr(_SCENES, name)

    def samples(self) -> list[SampleRef]:
        first = _SCENES.samples()[0]
        return [replace(first, key=key, split=split) for split, keys in self.splits.items() for key in keys]

    def load(self, sample: SampleRef) -> object:
        return _SCENES.load(_SCENES.samples()[0])


def test_a_key_in_other_splits_of_two_data_sets_is_refused_by_name(tmp_path: Path) -> None:
    a, b = _Renamed({"train": ("a", "b"), "val": ("c",)}), _Renamed({"train": ("d", "e"), "val": ("b", "f")})
    for name, source in (("a", a), ("b", b)):
        pack(source, tmp_path / name)  # type: ignore[arg-type]  # a Source
    shards = r"a/train-000000\.tar and .*b/val-000000\.tar: the key 'b' is in split train of one and in split val"
    with pytest.raises(DataError, match=shards + ".* must not be in training and in validation"):
        merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "merged").exists()


def test_keys_that_one_data_set_has_in_two_splits_do_not_keep_it_from_others(tmp_path: Path) -> None:
    """Where each split's files are numbered from 0, the names say nothing of the images."""
    for name, keys in (("a", ("0", "1")), ("b", ("2", "3"))):
        pack(_Renamed({"train": keys, "val": keys}), tmp_path / name)  # type: ignore[arg-type]  # a Source
    merged = merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "b"]).manifest
    assert {name: split.num_samples for name, split in merged.splits.items()} == {"train": 4, "val": 4}


def test_other_classes_are_refused_by_name(tmp_path: Path) -> None:
    pack(_SCENES, tmp_path / "a")
    pack(_SCENES, tmp_path / "b")
    for key, value, message in (
        ("class_names", "sky", r"class_names\[2\] is '.*' and 'sky'"),
        ("palette", [9, 9, 9], r"palette\[2\]"),
    ):
        manifest = load_manifest(open_storage(tmp_path / "b"))
        names = list(getattr(manifest, key))
        names[2] = tuple(value) if isinstance(value, list) else value
        changed = replace(manifest, **{key: tuple(names)})
        (tmp_path / "c" / key).mkdir(parents=True)
        (tmp_path / "c" / key / "manifest.json").write_text(changed.to_json())
        with pytest.raises(DataError, match=message):
            merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "c" / key])


def test_what_cannot_be_merged_is_said(tmp_path: Path) -> None:
    pack(_SCENES, tmp_path / "a")
    pack(_SCENES, tmp_path / "p", part=Part(number=1, count=1))
    (tmp_path / "empty").mkdir()
    for folders, message in (
        (["a", "p"], "p is a part of a data set, but .*a is a whole one"),
        (["a", "empty"], "empty: holds neither"),
        (["out"], "is the folder to merge into"),
        ([], "holds no finished part"),
    ):
        with pytest.raises(UserError, match=message):
            merge(tmp_path / "out", [tmp_path / name for name in folders])
    document = json.loads((tmp_path / "a" / "manifest.json").read_text())
    document["ignore_index"] = 200
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="was changed after it was packed"):
        merge(tmp_path / "out", [tmp_path / "a"])


def test_a_folder_with_another_data_set_is_not_merged_into(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "out")):
        pack(SyntheticSource(num_train=1 + number, num_val=0, height=32, width=32), tmp_path / name)
    before = _files(tmp_path / "out")
    message = "out: holds a data set that is not what would be written now: .*; merge into a new folder$"
    with pytest.raises(DataError, match=message) as told:
        merge(tmp_path / "out", [tmp_path / "a"])
    assert "--" not in str(told.value)  # merging has no such options
    assert _files(tmp_path / "out") == before


def test_a_link_to_a_shard_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert link_or_copy(tmp_path / "link", tmp_path / "there", "") is Transfer.LINKED
    (tmp_path / "link").unlink()
    assert not (tmp_path / "there").is_symlink()
    assert (tmp_path / "there").read_text() == "x"
