"""The manifest: the same after reading, and every mistake named."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from dist_seg.data.shards.manifest import Manifest, ShardInfo, Split
from dist_seg.data.shards.manifest_parsing import load_manifest, parse_manifest, recorded_hash
from dist_seg.errors import DataError
from dist_seg.storage.object_store import open_storage


def _manifest(name: str = "train-000000.tar") -> Manifest:
    shard = ShardInfo(name=name, bytes=10240, sha256="ab", samples=3, index_sha256="cd", sidecar_sha256="ef")
    return Manifest(
        class_names=("sky", "Straße"),
        palette=((0, 0, 0), (255, 128, 0)),
        splits={"train": Split(shards=(shard,), class_pixels=(5, 7), ignored_pixels=2, skipped_samples=1)},
    )


def _changed(path: tuple[str | int, ...], value: object) -> bytes:
    document = json.loads(_manifest().to_json())
    at = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(document).encode()


def test_survives_json() -> None:
    manifest = _manifest()
    assert parse_manifest(manifest.to_json().encode(), "m") == manifest


def test_hash_stands_in_the_file_and_changes_with_the_contents() -> None:
    manifest = _manifest()
    assert recorded_hash(manifest.to_json().encode()) == manifest.hash
    assert parse_manifest(_changed(("class_names", 0), "ski"), "m").hash != manifest.hash


def test_data_packed_in_format_1_is_read_and_keeps_its_hash() -> None:
    shard = ShardInfo(
        name="train-000000.tar", bytes=10240, sha256="ab", samples=2, index_sha256="cd", sidecar_sha256="ef"
    )
    manifest = Manifest(
        format_version=1,
        class_names=("a", "b"),
        palette=((0, 0, 0), (1, 2, 3)),
        splits={"train": Split(shards=(shard,), class_pixels=(3, 4), ignored_pixels=5)},
    )
    read = parse_manifest(manifest.to_json().encode(), "m")
    assert read.format_version == 1
    assert read.hash == "06a4ef09b5961dc904bc2197678b64ade32a2c283898fbedcf431635c8a4b6e6"  # as version 1 wrote it


def _with_counts(class_samples: tuple[int, ...] = (3, 1)) -> Manifest:
    manifest = _manifest()
    split = manifest.split("train")
    shards = (replace(split.shards[0], class_samples=class_samples),)
    return replace(manifest, splits={"train": replace(split, shards=shards)})


def test_counts_of_a_shard_stand_on_one_line_and_leave_the_hash_as_it_was() -> None:
    manifest = _with_counts()
    assert '"class_samples": [3, 1]' in map(str.strip, manifest.to_json().splitlines())
    # as it was when each stood on a line of its own
    assert manifest.hash == "b94e1b6b76b6bcbda8ab723c39cd49716dec0e607e880b1433d5ee5c99465f89"


def test_a_manifest_with_a_line_for_each_count_is_read() -> None:
    manifest = _with_counts()
    earlier = json.dumps(json.loads(manifest.to_json()), indent=1, ensure_ascii=False).encode()
    read = parse_manifest(earlier, "m")
    assert (read, read.hash) == (manifest, recorded_hash(earlier))


def test_the_counts_of_many_shards_are_held_in_few_bytes() -> None:
    manifest = _with_counts()
    split = manifest.split("train")
    counts = tuple(300 + i for i in range(150))
    shard = replace(split.shards[0], samples=500, bytes=2**20, class_samples=counts)
    shards = tuple(replace(shard, name=f"train-{i:06d}.tar") for i in range(200))
    names, palette = tuple(f"c{i}" for i in range(150)), ((0, 0, 0),) * 150
    many = replace(
        manifest,
        class_names=names,
        palette=palette,
        splits={"train": replace(split, shards=shards, class_pixels=(1,) * 150)},
    )
    text = many.to_json().encode()
    tracemalloc.start()
    read = parse_manifest(text, "m")
    held, most = (size - len(text) for size in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    assert read == many
    assert held + len(text) < 200 * 1200  # of 150 numbers 300 bytes; as a tuple of numbers they take 6000
    assert most < 200 * 3000


def test_names_of_the_files_beside_a_shard() -> None:
    shard = _manifest().split("train").shards[0]
    assert (shard.index_name, shard.sidecar_name) == ("train-000000.idx", "train-000000.samples")


def test_an_unknown_split_is_told_which_there_are() -> None:
    with pytest.raises(DataError, match=r"no split 'test'.*train"):
        _manifest().split("test")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json: no such file"):
        load_manifest(open_storage(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "/etc/x.tar",
        "../x.tar",
        "a/../../x.tar",
        "a//x.tar",
        "./x.tar",
        "C:\\x.tar",
        "s3://b/x.tar",
        "x.txt",
        "a\\..\\x.tar",
        "https://host/x.tar",
        "x\0.tar",
        "x\n.tar",
        "..",
        ".tar/..",
        "",
    ],
)
def test_a_shard_outside_the_folder_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"m: splits\.train\.shards\[0\]\.name is"):
        parse_manifest(_changed(("splits", "train", "shards", 0, "name"), name), "m")


_SPLIT = json.loads(_manifest().to_json())["splits"]["train"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format_version",), 99, "format_version is 99"),
        (("format_version",), "1", "format_version is '1': expected int, got str"),
        (("task",), "depth", "task is 'depth'"),
        (("class_names",), ["a", "a"], "different names"),
        (("class_names", 1), 3, r"class_names\[1\] is 3"),
        (("palette",), [[0, 0, 0]], "as many colours"),
        (("palette", 1), [0, 0, 256], r"palette\[1\]"),
        (("ignore_index",), 1, "ignore_index is 1"),
        (("splits",), [], r"splits is \[\]: expected object, got array"),
        (("splits", "train", "class_pixels"), [1], r"splits\.train\.class_pixels must be 2 counts"),
        (("splits", "train", "shards", 0, "samples"), -1, r"shards\[0\]\.samples is -1"),
        (("splits", "train", "shards", 0, "bytes"), True, r"shards\[0\]\.bytes is True"),
        (("splits", "train", "shards", 0, "bytes"), -1, r"shards\[0\]\.bytes is -1"),
        (("splits", "train", "shards", 0, "bytes"), 10**18, r"shards\[0\] says that .*, which cannot be"),
        (("splits", "train", "shards", 0, "samples"), 10**18, r"holds 10{18} samples in 10240 bytes, which cannot be"),
        (("splits", "train", "shards", 0, "samples"), 11, r"holds 11 samples in 10240 bytes, which cannot be"),
        (("splits", "train", "ignored_pixels"), 10**30, r"ignored_pixels is 10{30}, must lie between"),
        (("splits", "train", "class_pixels"), [1, 10**30], r"class_pixels must be 2 counts between 0 and"),
        (("splits", "train", "class_pixels"), [1, -1], r"class_pixels must be 2 counts between 0 and"),
        (("splits",), {"../../x": _SPLIT}, r"splits has the name '\.\./\.\./x'"),
        (("splits", "train", "shards", 0, "sha256"), None, r"shards\[0\]\.sha256 is None"),
        (
            ("splits", "train", "shards", 0, "class_samples"),
            3,
            r"shards\[0\]\.class_samples is 3: expected a list of numbers",
        ),
        (
            ("splits", "train", "shards", 0, "class_samples"),
            [1],
            r"shards\[0\]\.class_samples must be 2 counts .* got 1",
        ),
        (
            ("splits", "train", "shards", 0, "class_samples"),
            [],
            r"shards\[0\]\.class_samples must be 2 counts .* got 0",
        ),
        (
            ("splits", "train", "shards", 0, "class_samples"),
            [1, -1],
            r"shards\[0\]\.class_samples is \[1, -1\]: expected numbers from 0 to .* number 1 is -1",
        ),
        (
            ("splits", "train", "shards", 0, "class_samples"),
            [1, 10**30],
            r"shards\[0\]\.class_samples is .*: expected numbers from 0 to .* number 1 is 10{30}",
        ),
        (
            ("splits", "train", "shards", 0, "class_samples"),
            [1, True],
            r"shards\[0\]\.class_samples is \[1, True\]: expected numbers from 0 to .* number 1 is True",
        ),
        (("splits", "train", "shards", 0, "class_samples"), [1, 4], r"class_samples has 4 samples of a class, of 3"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(path: tuple[str | int, ...], value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_manifest(_changed(path, value), "m")


def test_a_missing_key_is_named() -> None:
    document = json.loads(_manifest().to_json())
    del document["splits"]["train"]["ignored_pixels"]
    with pytest.raises(DataError, match=r"splits\.train\.ignored_pixels is missing"):
        parse_manifest(json.dumps(document).encode(), "m")


@pytest.mark.parametrize("key", ["format_version", "task", "class_names", "palette", "ignore_index", "splits"])
def test_every_key_of_the_document_must_be_there(key: str) -> None:
    document = json.loads(_manifest().to_json())
    del document[key]
    with pytest.raises(DataError, match=f"m: {key} is missing"):
        parse_manifest(json.dumps(document).encode(), "m")


def test_instances_and_arrays_need_their_own_keys() -> None:
    document = json.loads(_manifest().to_json())
    document["task"] = "instance"
    with pytest.raises(DataError, match="category_ids is missing"):
        parse_manifest(json.dumps(document).encode(), "m")
    document["category_ids"] = [1, 2]
    with pytest.raises(DataError, match=r"splits\.train\.objects is missing"):
        parse_manifest(json.dumps(document).encode(), "m")
    document = {**json.loads(_manifest().to_json()), "image": {"dtype": "uint16", "channels": 3}}
    with pytest.raises(DataError, match=r"splits\.train\.channels is missing"):
        parse_manifest(json.dumps(document).encode(), "m")
    document["image"]["channels"] = 0
    with pytest.raises(DataError, match="image is 0 channels of uint16, must be 1 to 256"):
        parse_manifest(json.dumps(document).encode(), "m")
    document["image"]["dtype"] = "float32"
    with pytest.raises(DataError, match=r"image\.dtype is 'float32'"):
        parse_manifest(json.dumps(document).encode(), "m")


def test_the_same_shard_twice_is_refused() -> None:
    document = json.loads(_manifest().to_json())
    document["splits"]["val"] = document["splits"]["train"]
    with pytest.raises(DataError, match=r"train-000000\.tar is listed more than once"):
        parse_manifest(json.dumps(document).encode(), "m")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_manifest_is_no_traceback(data: bytes) -> None:
    with pytest.raises(DataError, match="m: "):
        parse_manifest(data, "m")
