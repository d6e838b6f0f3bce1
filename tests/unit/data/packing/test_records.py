"""Records of packed shards: the bytes stay those of earlier versions, and what is damaged counts as not packed."""

import json
from pathlib import Path

import pytest

from dist_seg.data.packing.parts import PackedPart, Part, read_part
from dist_seg.data.packing.records import RecordDocument, parse_records, read_records, record_text, records_text
from dist_seg.data.shards.manifest import Manifest
from dist_seg.errors import DataError

_SHARD = """\
  {
   "split": "train",
   "fingerprint": "f1",
   "info": {
    "name": "train-000000.tar",
    "bytes": 30720,
    "sha256": "a0",
    "samples": 3,
    "index_sha256": "0d",
    "sidecar_sha256": "96",
    "class_samples": [1, 2],
    "dataset": null,
    "indexed": null
   },
   "class_pixels": [158, 673],
   "ignored_pixels": 7,
   "skipped": [
    {
     "key": "k",
     "reason": "k.png: caf\\u00e9",
     "other_kind": true,
     "stray_annotations": 0
    }
   ],
   "objects": {
    "class_objects": [1, 3],
    "crowd_objects": 0,
    "max_objects": 5,
    "side_histogram": [0, 2],
    "overfull_objects": 0,
    "hidden_pixels": 0,
    "skipped_annotations": [
     "annotation 5 has no mask"
    ]
   },
   "channels": {
    "pixels": 4,
    "sums": [40000000000000000000],
    "square_sums": [7],
    "histograms": "eJw="
   }
  }"""
_TEXT = (
    '{\n "options": {\n  "--shard-mb": 0.02,\n  "--max-side": null,\n  "meaning": {\n   "number": {\n    "0": "a"\n'
    f'   }}\n  }}\n }},\n "shards": [\n{_SHARD}\n ]\n}}\n'
)
"""`pack.json` as earlier versions wrote it."""


def test_a_file_of_an_earlier_version_is_read_and_written_with_the_same_bytes() -> None:
    document = parse_records(_TEXT.encode(), "pack.json")
    (shard,) = document.shards
    assert document.options == {"--shard-mb": 0.02, "--max-side": None, "meaning": {"number": {"0": "a"}}}
    assert (shard.info.class_samples, shard.class_pixels, shard.skipped[0].key) == ((1, 2), (158, 673), "k")
    assert shard.objects and shard.objects.class_objects == (1, 3)
    assert shard.channels and shard.channels.sums == (40_000_000_000_000_000_000,)
    assert records_text(document.shards, document.options).decode() == _TEXT


def test_records_without_options_and_of_a_shard_before_the_end_are_read() -> None:
    (shard,) = parse_records(_TEXT.encode(), "pack.json").shards
    for text in (records_text([shard]), record_text(shard)):
        assert parse_records(text, "x") == RecordDocument(shards=(shard,))
    fields = json.loads(record_text(shard))[0]
    del fields["channels"], fields["objects"], fields["info"]["class_samples"], fields["info"]["indexed"]
    del fields["skipped"][0]["other_kind"]
    (old,) = parse_records(json.dumps([fields]).encode(), "x").shards
    assert (old.channels, old.objects, old.info.class_samples, old.info.indexed) == (None, None, None, None)


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "null",
        "{}",
        "[1]",
        "[" * 100_000,
        _TEXT[:-9],
        _TEXT.replace('"sha256": "a0"', '"sha256": 1'),
        _TEXT.replace("[158, 673]", "[158, null]"),
        _TEXT.replace("[158, 673]", '"12"'),
        _TEXT.replace("[1, 2]", "[1, -2]"),
        _TEXT.replace("[1, 2]", f"[{2**64}]"),
        _TEXT.replace('"split": "train",', ""),
        _TEXT.replace("\\u00e9", "\xe9"),
    ],
)
def test_what_cannot_be_read_counts_as_not_packed(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "pack.json").write_bytes(damaged.encode("latin-1"))
    assert read_records(tmp_path / "pack.json").shards == ()
    assert read_records(tmp_path / "none.json") == RecordDocument()


def test_an_error_names_file_and_field() -> None:
    with pytest.raises(DataError, match=r"a/pack\.json: shards\[0\]\.info\.bytes is '3': expected int"):
        parse_records(_TEXT.replace("30720", '"3"').encode(), "a/pack.json")


def test_part_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    part = PackedPart(
        part=Part(number=2, count=3),
        header=Manifest(class_names=("a",), palette=((1, 2, 3),)),
        plan="p",
        contents="c",
        plan_shards=4,
        plan_samples=9,
        options={"--max-side": None},
        records_sha256="r",
    )
    (tmp_path / "part.json").write_text(part.to_json())
    assert read_part(tmp_path) == part
    assert part.to_json().startswith(
        '{\n "format_version": 2,\n "part": 2,\n "parts": 3,\n "plan": "p",\n "contents": "c",\n "plan_shards": 4,\n'
        ' "plan_samples": 9,\n "options": {\n  "--max-side": null\n },\n "records_sha256": "r",\n "data": {\n'
    )
    (tmp_path / "part.json").write_text(part.to_json().replace('"plan_shards": 4', '"plan_shards": "4"'))
    with pytest.raises(DataError, match=r"part\.json: plan_shards is '4': expected int.*; pack the part again"):
        read_part(tmp_path)
