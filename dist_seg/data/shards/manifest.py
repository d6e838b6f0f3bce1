"""`manifest.json`: the contents of a packed data set.

It holds nothing per sample: it grows by one entry per shard, with a number for each class.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.encoded import TargetClasses, TargetKind
from dist_seg.data.codecs.npy import ArrayLayout
from dist_seg.data.codecs.targets import target_kind
from dist_seg.data.shards.counts import Counts
from dist_seg.errors import DataError
from dist_seg.masks.palette import Rgb
from dist_seg.runtime.json_text import json_text

_MAY_DIFFER = ("format_version", "splits")
FORMAT_VERSION = 2
SIDE_PERCENTILES = (10, 30, 50, 70, 90)


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """A shard and the files beside it. The hashes are sha256 in hexadecimal."""

    name: str
    """File name of the tar, such as `train-000000.tar`."""
    bytes: int
    sha256: str
    samples: int
    index_sha256: str
    """Hash of DALI's index, `index_name`."""
    sidecar_sha256: str
    """Hash of our sidecar, `sidecar_name`."""
    class_samples: Counts | None = None
    """Samples per class, from the sidecar; None if the sidecar does not record it."""
    indexed: bool | None = None
    """True for a tar that was not packed here but indexed in place: it may hold more than its sidecar lists."""

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".idx"

    @property
    def sidecar_name(self) -> str:
        return self.name.removesuffix(".tar") + ".samples"


@dataclass(frozen=True, kw_only=True)
class ObjectCounts:
    """Counts of a split's annotations. Instance data only."""

    class_objects: tuple[int, ...]
    """Objects of each class, without crowds."""
    crowd_objects: int
    max_objects: int
    """The most objects in one image."""
    sides: tuple[float, ...]
    """Square roots of the objects' areas in pixels: the 10th, 30th, 50th, 70th and 90th percentile; empty for none."""
    overfull_objects: int
    """Objects that did not fit into the layers completely, as too many objects overlap."""
    hidden_pixels: int
    """Pixels of these objects that are in no layer."""
    skipped_annotations: int
    """Unusable annotations that packing left out, as requested."""

    @property
    def total(self) -> int:
        return sum(self.class_objects)


@dataclass(frozen=True, kw_only=True)
class ChannelStatistics:
    """Statistics of the pixel values of a split, one number per channel. Array images only."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    """The 0.1st and the 99.9th percentile, to within 1/128."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Split:
    """A part of the data, such as `train`."""

    shards: tuple[ShardInfo, ...]
    class_pixels: tuple[int, ...]
    """Pixels of each class over all of the split's masks."""
    ignored_pixels: int
    """Pixels without a class. For multi-label data: the total over all labels."""
    skipped_samples: int = 0
    """Unusable samples that packing left out, as requested."""
    objects: ObjectCounts | None = None
    """Instance data only."""
    channels: ChannelStatistics | None = None
    """Array images only."""

    @property
    def shard_samples(self) -> tuple[int, ...]:
        """The number of samples of every shard."""
        return tuple(shard.samples for shard in self.shards)

    @property
    def num_samples(self) -> int:
        return sum(self.shard_samples)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of `manifest.json`."""

    format_version: int = FORMAT_VERSION
    task: str = "semantic"
    class_names: tuple[str, ...]
    palette: tuple[Rgb, ...]
    """A colour for each class, with values from 0 to 255."""
    ignore_index: int = IGNORE_INDEX
    category_ids: tuple[int, ...] | None = None
    """Instance data only: the id of each class in the raw data set, used in results in COCO's format."""
    image: ArrayLayout | None = None
    """Layout of array images; None for pictures."""
    splits: Mapping[str, Split] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def target_kind(self) -> TargetKind:
        """What the targets are, in the classes of the manifest."""
        return target_kind(self.task, TargetClasses.as_packed(self.num_classes, self.ignore_index))

    def split(self, name: str) -> Split:
        """Raises `DataError`, which lists the splits, for an unknown split."""
        if name not in self.splits:
            raise no_split(name, self.splits)
        return self.splits[name]

    @cached_property
    def hash(self) -> str:
        """sha256 of the canonical JSON, in hexadecimal: the identity of the packed data."""
        return json_hash(json_fields(vars(self)))

    def to_json(self) -> str:
        """The text of `manifest.json`, with `hash` in it so that a later change shows."""
        return json_text({**json_fields(vars(self)), "hash": self.hash}, ensure_ascii=False) + "\n"


def no_split(name: str, splits: Iterable[str]) -> DataError:
    """The error for a split that a data set does not have."""
    return DataError(f"there is no split {name!r} in this data set; it has {', '.join(splits) or 'none'}")


def json_hash(document: Mapping[str, object]) -> str:
    """sha256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def json_fields(entries: Mapping[str, object]) -> dict[str, object]:
    """JSON-ready values. Fields that are None are left out, so the text and hash of data sets written before a field
    existed do not change.
    """
    return {key: _json_value(part) for key, part in entries.items() if part is not None}


def _json_value(value: object) -> object:
    match value:
        case dict():
            return json_fields(value)
        case list() | tuple() | Counts():
            return [part if type(part) is int else _json_value(part) for part in value]
    if is_dataclass(value):
        return json_fields({entry.name: getattr(value, entry.name) for entry in fields(value)})
    return value


def check_same_kind(where: object, kind: Manifest, other_where: object, other_kind: Manifest) -> None:
    """Raises `DataError` if data sets differ in anything but their splits; it names both and the first difference."""
    for entry in fields(Manifest):
        one, other = getattr(kind, entry.name), getattr(other_kind, entry.name)
        if entry.name in _MAY_DIFFER or one == other:
            continue
        what = entry.name
        if isinstance(one, tuple) and isinstance(other, tuple):
            at = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
            what = f"the number of {what}" if at is None else f"{what}[{at}]"
            one, other = (len(one), len(other)) if at is None else (one[at], other[at])
        raise DataError(f"{where} and {other_where} do not go together: {what} is {one!r} and {other!r}")
