"""Records of packed shards as they are written for a later run: in `pack.json`, and one for each shard till then."""

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
"""A shard's samples that are named when packing fails; the rest would only be more of the same."""
RecordedOptions = dict[str, object]
"""Options of packing, by the names that the user knows."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A sample that cannot be packed, and why."""

    key: str
    reason: str
    """Names the file."""
    other_kind: bool = False
    """It could be packed, with others of its kind."""
    stray_annotations: int = 0
    """So many annotations of no image are what it stands for, instead of a sample."""

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, kw_only=True)
class PackedShard:
    """A whole shard and what was counted while it was written."""

    split: str
    fingerprint: str
    info: ShardInfo
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    skipped: tuple[Refusal, ...]
    objects: ShardObjects | None = None
    """Of instances."""
    channels: ShardChannels | None = None
    """Of arrays."""

    @property
    def left_out(self) -> bool:
        """Whether anything bad was: samples, or annotations of samples that were kept."""
        return bool(self.skipped or (self.objects and self.objects.skipped_annotations))


@dataclass(frozen=True, kw_only=True)
class RecordDocument:
    """The whole of `pack.json`."""

    options: RecordedOptions | None = None
    """With which all of the data set was packed; None where nobody knows."""
    shards: tuple[PackedShard, ...] = ()


def records_text(shards: Sequence[PackedShard], options: RecordedOptions | None = None) -> bytes:
    """The text of `pack.json`. options: with which all of the data set was packed, where that is known."""
    records = [_plain(shard) for shard in shards]
    return (json_text(records if options is None else {"options": options, "shards": records}) + "\n").encode()


def record_text(shard: PackedShard) -> bytes:
    """The text of the record of one shard, while the data set is not finished."""
    return json.dumps([_plain(shard)]).encode()


def _plain(shard: PackedShard) -> dict[str, object]:
    fields, classes = asdict(shard), shard.info.class_samples
    indexed = fields["info"].pop("indexed")
    # A field of earlier versions, always null; without it, packing again would change the bytes of the file.
    info = {**fields["info"], "class_samples": None if classes is None else list(classes), "dataset": None}
    return {**fields, "info": {**info, "indexed": indexed}}


def read_records(path: Path) -> RecordDocument:
    """What stands in a file of ours. What is not there or cannot be read counts as not packed."""
    try:
        return parse_records(path.read_bytes(), str(path))
    except (FileNotFoundError, DataError):
        return RecordDocument()


def parse_records(data: bytes, where: str) -> RecordDocument:
    """Raises `DataError` naming `where` and the field for what `records_text` has not written."""
    if data.startswith(b"{"):
        return decode(data, RecordDocument, where, hook=counts_hook)
    return RecordDocument(shards=tuple(decode(data, list[PackedShard], where, hook=counts_hook)))


def left_out(refusals: Iterable[Refusal]) -> tuple[int, int]:
    """Samples, and annotations that are none of a sample."""
    strays = [refusal.stray_annotations for refusal in refusals]
    return strays.count(0), sum(strays)


def listed(reasons: Sequence[str]) -> str:
    """The first reasons, a line each, and how many more there are."""
    more = [f"and {len(reasons) - MAX_REFUSALS} more"] if len(reasons) > MAX_REFUSALS else []
    return "".join(f"\n  {line}" for line in [*reasons[:MAX_REFUSALS], *more])
