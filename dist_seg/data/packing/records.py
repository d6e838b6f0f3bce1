"""Records of packed shards for later runs: `pack.json`, and a file for each shard until the data set is finished."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dist_seg.data.shards.channel_statistics import ShardChannels
from dist_seg.data.shards.counts import counts_hook
from dist_seg.data.shards.manifest import ShardInfo
from dist_seg.data.shards.object_counts import ShardObjects
from dist_seg.errors import DataError
from dist_seg.runtime.documents import decode
from dist_seg.runtime.json_text import json_text

MAX_REFUSALS = 20
"""Samples that an error names at most; more would only repeat the same reasons."""
RecordedOptions = dict[str, object]
"""Options of packing by their names on the command line."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A sample that cannot be packed, and why."""

    key: str
    reason: str
    """Names the file."""
    other_kind: bool = False
    """The sample is good, but its image is of another kind than the data set's."""
    stray_annotations: int = 0
    """Number of annotations without an image that this entry counts. 0: it stands for a sample."""

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, kw_only=True)
class PackedShard:
    """A finished shard and what was counted while it was written."""

    split: str
    fingerprint: str
    info: ShardInfo
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    skipped: tuple[Refusal, ...]
    objects: ShardObjects | None = None
    """Instance data only."""
    channels: ShardChannels | None = None
    """Array images only."""

    @property
    def left_out(self) -> bool:
        """Whether anything was left out: samples, or annotations of samples that were packed."""
        return bool(self.skipped or (self.objects and self.objects.skipped_annotations))


@dataclass(frozen=True, kw_only=True)
class RecordDocument:
    """What `pack.json` says."""

    options: RecordedOptions | None = None
    """The options with which the whole data set was packed; None if they are not recorded."""
    shards: tuple[PackedShard, ...] = ()


def records_text(shards: Sequence[PackedShard], options: RecordedOptions | None = None) -> bytes:
    """The text of `pack.json`. options: those with which the whole data set was packed, if known."""
    records = [_plain(shard) for shard in shards]
    return (json_text(records if options is None else {"options": options, "shards": records}) + "\n").encode()


def record_text(shard: PackedShard) -> bytes:
    """The text of one shard's record, which is kept until the data set is finished."""
    return json.dumps([_plain(shard)]).encode()


def _plain(shard: PackedShard) -> dict[str, object]:
    fields, classes = asdict(shard), shard.info.class_samples
    indexed = fields["info"].pop("indexed")
    # Earlier versions wrote this field, always null. Without it, packing again would change the bytes of the file.
    info = {**fields["info"], "class_samples": None if classes is None else list(classes), "dataset": None}
    return {**fields, "info": {**info, "indexed": indexed}}


def read_records(path: Path) -> RecordDocument:
    """Read a file of records. A missing or unreadable file counts as nothing packed."""
    try:
        return parse_records(path.read_bytes(), str(path))
    except (FileNotFoundError, DataError):
        return RecordDocument()


def parse_records(data: bytes, where: str) -> RecordDocument:
    """Parse what `records_text` or `record_text` wrote. Raises `DataError` that names `where` and the field."""
    if data.startswith(b"{"):
        return decode(data, RecordDocument, where, hook=counts_hook)
    return RecordDocument(shards=tuple(decode(data, list[PackedShard], where, hook=counts_hook)))


def left_out(refusals: Iterable[Refusal]) -> tuple[int, int]:
    """The number of samples left out, and the number of annotations without an image."""
    strays = [refusal.stray_annotations for refusal in refusals]
    return strays.count(0), sum(strays)


def listed(reasons: Sequence[str]) -> str:
    """The first reasons, each on its own line, and how many more there are."""
    more = [f"and {len(reasons) - MAX_REFUSALS} more"] if len(reasons) > MAX_REFUSALS else []
    return "".join(f"\n  {line}" for line in [*reasons[:MAX_REFUSALS], *more])
