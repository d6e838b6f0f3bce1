"""Records of packed shards as they are written for a later run: in `pack.json`, and one for each shard till then."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dist_seg.data.channel_statistics import ShardChannels
from dist_seg.data.manifest import ShardInfo
from dist_seg.data.object_counts import ShardObjects
from dist_seg.data.pack_shard import PackedShard, Refusal
from dist_seg.runtime.json_text import json_text

Options = dict[str, object]
"""Options of packing, by the names that the user knows."""


def records_text(shards: Sequence[PackedShard], options: Options | None = None) -> bytes:
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
