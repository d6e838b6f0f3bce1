"""A packed data set that several look into: how often they read it."""

from collections import Counter
from pathlib import Path

from dist_seg.data.inspection.findings import Example, Finding, Place, Severity
from dist_seg.data.inspection.sheets import save_suspects
from dist_seg.data.inspection.summary import inspect
from dist_seg.data.inspection.trouble import Trouble, find_trouble
from dist_seg.data.shards.opened import OpenedData
from dist_seg.storage.object_store import LocalStorage


class CountingStorage(LocalStorage):
    """How often each object was read as a whole."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: Counter[str] = Counter()

    def read(self, name: str) -> bytes:
        self.reads[name] += 1
        return super().read(name)


def test_opening_reads_nothing(synthetic_shards: Path) -> None:
    storage = CountingStorage(synthetic_shards)
    OpenedData(storage)
    assert not storage.reads


def test_counts_sheet_findings_and_suspects_read_manifest_and_indexes_once(
    synthetic_shards: Path, tmp_path: Path
) -> None:
    storage = CountingStorage(synthetic_shards)
    data = OpenedData(storage)
    inspect(data, out_png=tmp_path / "sheet.png", num_images=8)
    trouble = find_trouble(data, limit=0)
    save_suspects(data, _with_a_finding(trouble), tmp_path / "suspects.png")
    shards = [shard for split in data.manifest.splits.values() for shard in split.shards]
    assert storage.reads == {"manifest.json": 1, **{shard.sidecar_name: 1 for shard in shards}}


def _with_a_finding(trouble: Trouble) -> Trouble:
    """Three samples of one shard are suspects."""
    places = [Place(split="val", key="k", shard=0, index=index) for index in range(3)]
    finding = Finding(
        kind="twins",
        severity=Severity.NOTE,
        what="are alike",
        count=len(places),
        examples=tuple(Example(places=(place,), what="") for place in places),
        advice="none",
        splits=("val",),
    )
    return Trouble(class_names=trouble.class_names, looked_at=trouble.looked_at, findings=(finding,), cooccurrence={})
