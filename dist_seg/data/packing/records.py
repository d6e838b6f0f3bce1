"""Records of packed shards as they are written for a later run: in `pack.json`, and one for each shard till then."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dist_seg.data.shards.channel_statistics import ShardChannels
from dist_seg.data.shards.manifest import ShardInfo
from dist_seg.data.shards.object_counts import ShardObjects
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


def records_text(shards: Sequence[PackedShard], options: RecordedOptions | None = None) -> bytes:
    """Of `pack.json`. options: with which all of the data set was packed, where that is known."""
    records = [asdict(shard) for shard in shards]
    return (json_text(records if options is None else {"options": options, "shards": records}) + "\n").encode()


def read_records(path: Path) -> list[PackedShard]:
    """The records in a file of ours. What is not there or cannot be read counts as not packed."""
    try:
        records = json.loads(path.read_bytes())
        return [_record(fields) for fields in (records["shards"] if isinstance(records, dict) else records)]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return []


def _record(fields: dict[str, object]) -> PackedShard:
    match fields:
        case {"split": str(split), "fingerprint": str(fingerprint), "info": dict(info), "skipped": list(skipped)}:
            return PackedShard(
                split=split,
                fingerprint=fingerprint,
                info=_shard(info),
                class_pixels=_counts(fields["class_pixels"]),
                ignored_pixels=sum(_counts([fields["ignored_pixels"]])),
                skipped=tuple(Refusal(**refusal) for refusal in skipped),
                objects=_objects(fields.get("objects")),
                channels=_channels(fields.get("channels")),
            )
    raise ValueError("not a record of a packed shard")


def _shard(fields: dict[str, object]) -> ShardInfo:
    classes = fields.get("class_samples")
    known = {**fields, "class_samples": None if classes is None else _counts(classes)}
    return ShardInfo(**known)  # type: ignore[arg-type]  # what was written by asdict of the same class


def _objects(fields: object) -> ShardObjects | None:
    match fields:
        case None:
            return None
        case dict():
            lists = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
            return ShardObjects(**lists)  # type: ignore[arg-type]  # what was written by asdict of the same class
    raise ValueError("not the counts of a shard's objects")


def _channels(fields: object) -> ShardChannels | None:
    match fields:
        case None:
            return None
        case {"pixels": int(pixels), "sums": sums, "square_sums": squares, "histograms": str(histograms)}:
            return ShardChannels(pixels=pixels, sums=_counts(sums), square_sums=_counts(squares), histograms=histograms)
    raise ValueError("not the statistics of a shard's channels")


def _counts(values: object) -> tuple[int, ...]:
    match values:
        case list():
            return tuple(int(value) for value in values)
    raise ValueError("not a list of counts")


def left_out(refusals: Iterable[Refusal]) -> tuple[int, int]:
    """Samples, and annotations that are none of a sample."""
    strays = [refusal.stray_annotations for refusal in refusals]
    return strays.count(0), sum(strays)
