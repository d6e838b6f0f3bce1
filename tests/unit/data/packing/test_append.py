"""Appending: old shards stay to the byte, new samples come into new shards, and nothing changed slips by."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dist_seg.data.formats.coco.instances import open_coco
from dist_seg.data.formats.synthetic import SyntheticInstances, SyntheticSource
from dist_seg.data.packing import append as pack_append
from dist_seg.data.packing.append import append, open_for_append
from dist_seg.data.packing.folder import PackState
from dist_seg.data.packing.merge import merge
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.packing.parts import Part
from dist_seg.data.raw.source import AnySource, RawReading, SampleRef
from dist_seg.data.shards.manifest import Manifest
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.names import next_number
from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.data.shards.verify import verify
from dist_seg.errors import DataError, UserError
from dist_seg.storage.object_store import open_storage

from ..coco_data import annotation, image_entry, write_coco
from .test_pack import ArraySource, _mask

_FEW = SyntheticSource(num_train=8, num_val=4, height=32, width=32)
_MORE = replace(_FEW, num_train=14)
_SHARD_BYTES = 10_000


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _shards(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in _files(folder).items() if not name.endswith(".json")}


def _keys(folder: Path, split: str = "train") -> list[str]:
    storage = open_storage(folder)
    shards = load_manifest(storage).split(split).shards
    sidecars = [Sidecar.parse(storage.read(shard.sidecar_name)) for shard in shards]
    return sorted(key for sidecar in sidecars for key in sidecar.keys())  # noqa: SIM118  # no mapping


def _counts(manifest: Manifest) -> list[object]:
    return [replace(split, shards=()) for split in manifest.splits.values()]


@pytest.mark.parametrize("instances", [False, True])
def test_the_old_shards_stay_and_the_counts_are_those_of_all(tmp_path: Path, instances: bool) -> None:
    few, more = (SyntheticInstances(scenes=s) if instances else s for s in (_FEW, _MORE))
    pack(few, tmp_path / "out", PackOptions(shard_bytes=_SHARD_BYTES))
    before = _shards(tmp_path / "out")
    result = append(more, open_for_append(tmp_path / "out"), PackOptions(shard_bytes=_SHARD_BYTES))
    assert before.items() < _shards(tmp_path / "out").items()
    assert (result.present_samples, result.written_shards) == (12, 2)
    assert verify(tmp_path / "out") == []
    whole = pack(more, tmp_path / "whole", PackOptions(shard_bytes=_SHARD_BYTES))
    assert _counts(load_manifest(open_storage(tmp_path / "out"))) == _counts(whole.manifest)
    assert _keys(tmp_path / "out") == _keys(tmp_path / "whole")
    names = [shard.name for shard in result.manifest.split("train").shards]
    assert names == [f"train-{number:06d}.tar" for number in range(len(names))]


def test_nothing_new_changes_nothing(tmp_path: Path) -> None:
    pack(_FEW, tmp_path, PackOptions(shard_bytes=_SHARD_BYTES))
    before = _files(tmp_path)
    result = append(_FEW, open_for_append(tmp_path), PackOptions(shard_bytes=_SHARD_BYTES))
    assert (result.written_shards, result.kept_shards, result.present_samples) == (0, 0, 12)
    assert _files(tmp_path) == before


def test_keys_that_the_source_does_not_have_are_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(ArraySource({f"old{i}": _mask(1) for i in range(9)}), tmp_path)
    held: list[str] = []

    def compared(old: Sequence[Any], *others: object) -> object:
        held.extend(key for shard in old for key in shard.keys)
        return original(old, *others)  # type: ignore[arg-type]  # whatever it is given

    original = pack_append._compared
    monkeypatch.setattr(pack_append, "_compared", compared)
    result = append(ArraySource({"old3": _mask(1), "new": _mask(2)}), open_for_append(tmp_path))
    assert (held, result.present_samples) == (["old3"], 1)
    assert _keys(tmp_path) == ["new", *(f"old{i}" for i in range(9))]


def test_a_source_of_new_samples_alone_and_a_new_split_are_added(tmp_path: Path) -> None:
    pack(ArraySource({"a": _mask(1)}), tmp_path)
    result = append(ArraySource({"b": _mask(2)}), open_for_append(tmp_path))
    assert (_keys(tmp_path), result.manifest.split("train").class_pixels) == (["a", "b"], (38, 1, 1))

    class Validation(ArraySource):
        def samples(self) -> list[SampleRef]:  # type: ignore[override]
            return [replace(ref, split="val") for ref in super().samples()]

    assert set(append(Validation({"c": _mask()}), open_for_append(tmp_path)).manifest.splits) == {"train", "val"}
    assert verify(tmp_path) == []


def test_an_interrupted_appending_goes_on_and_leaves_the_old_manifest_till_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(_FEW, tmp_path / "out", PackOptions(shard_bytes=_SHARD_BYTES))
    pack(_FEW, tmp_path / "whole", PackOptions(shard_bytes=_SHARD_BYTES))
    before = _files(tmp_path / "out")
    real, calls = PackState.record, []

    def cut_off(state: PackState, shard: object) -> None:
        calls.append(shard)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(state, shard)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(PackState, "record", cut_off)
        with pytest.raises(KeyboardInterrupt):
            append(_MORE, open_for_append(tmp_path / "out"), PackOptions(shard_bytes=_SHARD_BYTES))
    assert before.items() < _files(tmp_path / "out").items()
    result = append(_MORE, open_for_append(tmp_path / "out"), PackOptions(shard_bytes=_SHARD_BYTES))
    assert (result.written_shards, result.kept_shards) == (1, 1)
    append(_MORE, open_for_append(tmp_path / "whole"), PackOptions(shard_bytes=_SHARD_BYTES))
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")


@pytest.mark.parametrize("last", ["records", "manifest.json"])
@pytest.mark.parametrize("mended", [True, False])
def test_appending_that_was_cut_off_while_finishing_counts_what_is_left_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, mended: bool
) -> None:
    masks = {"good": _mask(1), "bad": _mask(9)}
    for name in ("out", "whole"):
        pack(ArraySource(masks), tmp_path / name, PackOptions(skip_bad=True))
    now = {**masks, "bad": _mask(2)} if mended else {**masks, "new": _mask(2), "worse": _mask(9)}
    source = ArraySource(now, versions={"bad": "new"} if mended else {})
    real = Path.replace

    def cut_off(path: Path, target: Path) -> Path:
        if path.name.startswith("records-" if last == "manifest.json" else "manifest.json") and Path(target).suffix:
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            append(source, open_for_append(tmp_path / "out"), PackOptions(skip_bad=True, shard_bytes=1))
    resumed = append(source, open_for_append(tmp_path / "out"), PackOptions(skip_bad=True, shard_bytes=1))
    whole = append(source, open_for_append(tmp_path / "whole"), PackOptions(skip_bad=True, shard_bytes=1))
    assert resumed.manifest.split("train").skipped_samples == (0 if mended else 2)
    assert resumed.manifest == whole.manifest
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")
    assert not (tmp_path / "out" / ".pack").exists()


def test_a_sample_that_has_changed_is_named(tmp_path: Path) -> None:
    pack(ArraySource({"a": _mask(1), "b": _mask(2)}), tmp_path)
    before = _files(tmp_path)
    changed = ArraySource({"a": _mask(1), "b": _mask(1), "c": _mask()}, versions={"b": "new"})
    with pytest.raises(DataError, match=r"(?s)1 sample is not .*b\.png: differs from b\.seg\.png in train-000000"):
        append(changed, open_for_append(tmp_path))
    spoilt = ArraySource({"a": _mask(1), "b": _mask(9)}, versions={"b": "new"})
    with pytest.raises(DataError, match=r"b\.png: class id 9"):
        append(spoilt, open_for_append(tmp_path))
    assert _files(tmp_path) == before


def test_a_file_that_was_only_touched_is_no_change(tmp_path: Path) -> None:
    pack(ArraySource({"a": _mask(1), "b": _mask(2)}), tmp_path)
    before = _shards(tmp_path)
    touched = ArraySource({"a": _mask(1), "b": _mask(2)}, versions={"b": "new"})
    assert append(touched, open_for_append(tmp_path)).written_shards == 0
    assert _shards(tmp_path) == before


def test_without_records_contents_are_compared(tmp_path: Path) -> None:
    """A data set that was merged from several has none."""
    pack(ArraySource({"a": _mask(1)}), tmp_path / "a")
    pack(ArraySource({"b": _mask(2)}), tmp_path / "b")
    merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    masks = {"a": _mask(1), "b": _mask(2), "c": _mask()}
    with pytest.raises(DataError, match=r"a\.png: differs"):
        append(ArraySource({**masks, "a": _mask(2)}), open_for_append(tmp_path / "out"))
    assert append(ArraySource(masks), open_for_append(tmp_path / "out")).written_shards == 1
    assert _keys(tmp_path / "out") == ["a", "b", "c"]
    assert verify(tmp_path / "out") == []


def test_what_the_source_no_longer_has_stays(tmp_path: Path) -> None:
    pack(ArraySource({"a": _mask(1), "b": _mask(2)}), tmp_path)
    append(ArraySource({"b": _mask(2), "c": _mask()}), open_for_append(tmp_path))
    assert _keys(tmp_path) == ["a", "b", "c"]


def test_samples_without_a_version_are_compared(tmp_path: Path) -> None:
    unversioned = dict.fromkeys("abc", "")
    pack(ArraySource({"a": _mask(1), "b": _mask(1)}, versions=unversioned), tmp_path)
    changed = ArraySource({"a": _mask(1), "b": _mask(2), "c": _mask()}, versions=unversioned)
    with pytest.raises(DataError, match=r"1 sample is not what was packed.*\n  b\.png: differs"):
        append(changed, open_for_append(tmp_path))
    same = ArraySource({"a": _mask(1), "b": _mask(1), "c": _mask()}, versions=unversioned)
    assert append(same, open_for_append(tmp_path)).present_samples == 2
    assert _keys(tmp_path) == ["a", "b", "c"]


def test_samples_left_out_then_are_not_tried_again_until_they_change(tmp_path: Path) -> None:
    masks = {"good": _mask(1), "bad": _mask(9)}
    pack(ArraySource(masks), tmp_path, PackOptions(skip_bad=True))
    more = {**masks, "new": _mask(2)}
    again = append(ArraySource(more), open_for_append(tmp_path))
    split = again.manifest.split("train")
    assert (_keys(tmp_path), split.skipped_samples, again.present_samples) == (["good", "new"], 1, 2)
    mended = append(ArraySource({**more, "bad": _mask(2)}, versions={"bad": "new"}), open_for_append(tmp_path))
    assert (_keys(tmp_path), mended.manifest.split("train").skipped_samples) == (["bad", "good", "new"], 0)
    assert (
        append(
            ArraySource({**more, "bad": _mask(2)}, versions={"bad": "new"}), open_for_append(tmp_path)
        ).written_shards
        == 0
    )
    assert verify(tmp_path) == []


def test_bad_new_samples_are_refused_or_counted(tmp_path: Path) -> None:
    pack(ArraySource({"a": _mask()}), tmp_path)
    source = ArraySource({"a": _mask(), "x": _mask(9), "y": _mask(1)})
    with pytest.raises(DataError, match=r"x\.png: class id 9"):
        append(source, open_for_append(tmp_path))
    result = append(source, open_for_append(tmp_path), PackOptions(skip_bad=True))
    assert ([refusal.key for refusal in result.skipped], result.manifest.split("train").num_samples) == (["x"], 2)
    all_bad = append(ArraySource({"z": _mask(9)}), open_for_append(tmp_path), PackOptions(skip_bad=True))
    assert all_bad.manifest.split("train").skipped_samples == 2
    assert (
        append(ArraySource({"z": _mask(9)}), open_for_append(tmp_path), PackOptions(skip_bad=True)).manifest
        == all_bad.manifest
    )


def test_a_sample_does_not_come_into_a_second_split(tmp_path: Path) -> None:
    class Moved(ArraySource):
        def samples(self) -> list[SampleRef]:  # type: ignore[override]
            return [replace(ref, split="val") for ref in super().samples()]

    pack(ArraySource({"a": _mask()}), tmp_path)
    with pytest.raises(DataError, match=r"a\.jpg: would go into split val, but .* has 'a' in split train"):
        append(Moved({"a": _mask()}), open_for_append(tmp_path))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(ArraySource({"b": _mask()}), class_names=("a", "b", "d")), r"class_names\[2\] is 'c' and 'd'"),
        (replace(ArraySource({"b": _mask()}), ignore_index=254), "ignore_index is 255 and 254"),
        (SyntheticInstances(scenes=_FEW), "task is 'semantic' and 'instance'"),
    ],
)
def test_other_classes_are_refused(tmp_path: Path, other: AnySource, message: str) -> None:
    pack(ArraySource({"a": _mask()}), tmp_path)
    with pytest.raises(DataError, match=message):
        append(other, open_for_append(tmp_path))


def test_there_must_be_something_to_append_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished data set to append to"):
        append(_FEW, open_for_append(tmp_path / "new"))


def test_a_manifest_that_was_edited_is_not_made_good(tmp_path: Path) -> None:
    pack(ArraySource({"a": _mask()}), tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"ignored_pixels": 0', '"ignored_pixels": 7'))
    before = _files(tmp_path)
    with pytest.raises(DataError, match=r"manifest\.json: was changed after it was packed"):
        append(ArraySource({"b": _mask()}), open_for_append(tmp_path))
    assert _files(tmp_path) == before


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        (3, None, "was packed with --max-side 3; append with --max-side 3$"),
        (3, 4, "was packed with --max-side 3; append with --max-side 3 instead of --max-side 4"),
        (None, 4, "was packed without --max-side; append without --max-side 4$"),
    ],
)
@pytest.mark.parametrize("merged", [False, True])
def test_images_are_shrunk_as_those_that_are_there(
    tmp_path: Path, then: int | None, now: int | None, message: str, merged: bool
) -> None:
    out = tmp_path / "out"
    source, more = (ArraySource({name: _mask(1) for name in names}) for names in ("a", "ab"))
    pack(
        source,
        tmp_path / "part" if merged else out,
        PackOptions(max_side=then),
        part=Part(number=1, count=1) if merged else None,
    )
    if merged:
        merge(out, [tmp_path / "part"])
    for _ in range(2):  # appending keeps the option in mind
        with pytest.raises(UserError, match=message):
            append(more, open_for_append(out), PackOptions(max_side=now))
        append(more, open_for_append(out), PackOptions(max_side=then))
    assert _keys(out) == ["a", "b"]


def test_where_options_are_not_known_the_advice_speaks_of_them(tmp_path: Path) -> None:
    """Records of an earlier version are a list of shards alone."""
    source = ArraySource({"a": _mask(1)})
    pack(source, tmp_path, PackOptions(max_side=3))
    path = tmp_path / "pack.json"
    path.write_text(json.dumps(json.loads(path.read_text())["shards"]))
    with pytest.raises(DataError, match=r"a\.jpg: differs(?s:.*)packed with options such as --max-side"):
        append(source, open_for_append(tmp_path))
    assert append(source, open_for_append(tmp_path), PackOptions(max_side=3)).present_samples == 1


def test_another_limit_of_pixels_is_named_where_samples_differ(tmp_path: Path) -> None:
    source = ArraySource({"a": _mask(1)})
    pack(source, tmp_path)
    with pytest.raises(DataError, match=r"packed with --max-pixels 178956970, and now it is 10; give the same"):
        append(source, open_for_append(tmp_path), PackOptions(max_pixels=10))


def test_old_shards_of_an_earlier_version_are_not_brought_up_to_date(tmp_path: Path) -> None:
    manifest = pack(ArraySource({"a": _mask(1)}), tmp_path).manifest
    split = manifest.split("train")
    shards = tuple(replace(shard, class_samples=None) for shard in split.shards)
    earlier = replace(manifest, format_version=1, splits={"train": replace(split, shards=shards)})
    (tmp_path / "manifest.json").write_text(earlier.to_json())
    total = append(ArraySource({"b": _mask(2)}), open_for_append(tmp_path)).manifest
    assert total.format_version == manifest.format_version
    assert [shard.class_samples for shard in total.split("train").shards] == [None, (1, 0, 1)]
    assert load_manifest(open_storage(tmp_path)) == total


def test_another_tool_s_tar_in_the_way_is_kept(tmp_path: Path) -> None:
    pack(ArraySource({"a": _mask()}), tmp_path)
    (tmp_path / "train-000001.tar").write_text("not ours")
    with pytest.raises(DataError, match=r"not packed here \(train-000001\.tar"):
        append(ArraySource({"b": _mask()}), open_for_append(tmp_path))
    assert (tmp_path / "train-000001.tar").read_text() == "not ours"


def test_the_next_number_is_after_all_of_the_split() -> None:
    names = ["train-000003.tar", "train-1000000.tar", "train-x-000009.tar", "val-000007.tar", "train-8.tar.gz"]
    assert next_number("train", names) == 1_000_001
    assert next_number("test", names) == 0
    assert [next_number(split, names) for split in ("val", "train-x")] == [8, 10]


def test_annotations_of_no_image_are_counted_once_as_annotations(tmp_path: Path) -> None:
    strays = [annotation(number, image=99) for number in (7, 8)]
    images = [image_entry(1), image_entry(2, "b/2.jpg")]
    for known in (images[:1], images[:1], images):
        write_coco(tmp_path, [annotation(1), *strays], images=known)
        source, options = open_coco(tmp_path, reading=RawReading(skip_bad=True)), PackOptions(skip_bad=True)
        if (tmp_path / "out").exists():
            append(source, open_for_append(tmp_path / "out"), options)
        else:
            pack(source, tmp_path / "out", options)
        split = load_manifest(open_storage(tmp_path / "out")).splits["train"]
        assert split.objects is not None
        assert (split.num_samples, split.skipped_samples) == (len(known), 0)
        assert split.objects.skipped_annotations == 2
