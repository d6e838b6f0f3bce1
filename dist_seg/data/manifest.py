"""`manifest.json`: what a packed data set consists of. Nothing in it is per sample, so it stays small."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from dist_seg.data.arrays import MAX_CHANNELS, ArrayLayout
from dist_seg.data.selection import JoinedSelection, Selection
from dist_seg.errors import DataError
from dist_seg.runtime.storage import Storage

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
MANIFEST_NAME = "manifest.json"
IGNORE_INDEX = 255
SIDE_PERCENTILES = (10, 30, 50, 70, 90)
TASKS = ("semantic", "multilabel", "instance")
MAX_CLASSES = 255
"""Class ids are 8 bits, and 255 is the ignore index."""

_MOST_SHARD_BYTES = 2**50
_LEAST_SAMPLE_BYTES = 1024
"""A sample has two members at least, each with a header of 512 bytes in the tar."""
_MOST_COUNTED = 2**62
"""Of pixels or objects: sums stay within 64 bits."""
SPLIT_NAME = re.compile(r"\w[\w-]*", re.ASCII)

Rgb = tuple[int, int, int]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard and what lies beside it. The hashes are sha256 in hexadecimal."""

    name: str
    """File name of the tar, such as `train-000000.tar`."""
    bytes: int
    sha256: str
    samples: int
    index_sha256: str
    """Of DALI's index, `index_name`."""
    sidecar_sha256: str
    """Of our own index, `sidecar_name`."""
    class_samples: tuple[int, ...] | None = None
    """The number of samples that hold each class, as the index says; None where it does not."""
    dataset: str | None = None
    """Of a mix, never in a file: the data set that it belongs to, by the name in the mix."""
    indexed: bool | None = None
    """The tar was written by others and indexed as it lies: it may hold more than its index lists. None: packed."""

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".idx"

    @property
    def sidecar_name(self) -> str:
        return self.name.removesuffix(".tar") + ".samples"


@dataclass(frozen=True, kw_only=True)
class ObjectCounts:
    """What a split's annotations amount to; of instance data."""

    class_objects: tuple[int, ...]
    """Objects of each class, crowds apart."""
    crowd_objects: int
    max_objects: int
    """Of one image."""
    sides: tuple[float, ...]
    """Square roots of the objects' areas in pixels: the 10th, 30th, 50th, 70th and 90th percentile; empty for none."""
    overfull_objects: int
    """Objects that no layer had room for as a whole, as more overlap there than there are layers."""
    hidden_pixels: int
    """Pixels of theirs that are in no layer."""
    skipped_annotations: int
    """Annotations that could not be used and were left out, as asked for, while packing."""

    @property
    def total(self) -> int:
        return sum(self.class_objects)


@dataclass(frozen=True, kw_only=True)
class ChannelStatistics:
    """What the values of a split's images amount to: a number for each channel. Of arrays."""

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
    """Pixels without a class. Of multi-label data, where a pixel has any number of labels: over all labels together."""
    skipped_samples: int = 0
    """Samples that could not be used and were left out, as asked for, while packing."""
    objects: ObjectCounts | None = None
    """Of instance data."""
    channels: ChannelStatistics | None = None
    """Of arrays."""
    selection: Selection | JoinedSelection | None = None
    """Of a run's view of its data, never in a file: the samples that there are to it, None for all. The counts of
    pixels and objects, and the statistics, are of all."""
    class_samples: tuple[tuple[int, ...], ...] | None = None
    """Of a run's view that samples by class, never in a file: of every shard, the samples that hold each class."""

    @property
    def shard_samples(self) -> tuple[int, ...]:
        """The number of samples of every shard."""
        return tuple(shard.samples for shard in self.shards) if self.selection is None else self.selection.counts

    @property
    def num_samples(self) -> int:
        return sum(self.shard_samples)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole of `manifest.json`."""

    format_version: int = FORMAT_VERSION
    task: str = "semantic"
    class_names: tuple[str, ...]
    palette: tuple[Rgb, ...]
    """A colour for each class, 0 to 255."""
    ignore_index: int = IGNORE_INDEX
    category_ids: tuple[int, ...] | None = None
    """Of instance data: each class's id in the raw data set, which results in COCO's format are written with."""
    class_ids: Mapping[str, tuple[int, ...]] | None = None
    """Of a run's view of its data, never in a file: by data set ("" where there is one), for each of the classes that
    it was packed with the class that it has become, 255 for an ignored one. A data set whose ids stay has none."""
    image: ArrayLayout | None = None
    """Of images that are arrays; None for pictures."""
    packed_ignore: Mapping[str, int] | None = None
    """Beside `class_ids`: the ignore index that each of these data sets was packed with."""
    splits: Mapping[str, Split] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def split(self, name: str) -> Split:
        """Raises `DataError` that names the splits there are."""
        if name not in self.splits:
            raise DataError(f"there is no split {name!r} in this data set; it has {', '.join(self.splits) or 'none'}")
        return self.splits[name]

    @cached_property
    def hash(self) -> str:
        """sha256 of the canonical JSON, in hexadecimal: the identity of the packed data."""
        return hashlib.sha256(json.dumps(self._fields(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of `manifest.json`, with `hash` in it so that a later change shows."""
        return json.dumps({**self._fields(), "hash": self.hash}, indent=1, ensure_ascii=False) + "\n"

    def _fields(self) -> dict[str, object]:
        # Counts of samples by class follow from the rest.
        splits = {name: replace(split, class_samples=None) for name, split in self.splits.items()}
        fields = _without_nones(asdict(replace(self, splits=splits)))
        assert isinstance(fields, dict)
        return fields


def _without_nones(value: object) -> object:
    """What a data set does not have stands nowhere: text and hash stay as they were before there was such a thing."""
    match value:
        case dict():
            return {key: _without_nones(part) for key, part in value.items() if part is not None}
        case list() | tuple():
            return [_without_nones(part) for part in value]
        case Selection() | JoinedSelection():
            return value.identity
    return value


def load_manifest(storage: Storage) -> Manifest:
    """Read and check `manifest.json`. Every `DataError` names the file and the key that is wrong."""
    return parse_manifest(storage.read(MANIFEST_NAME), f"{storage.url}/{MANIFEST_NAME}")


def recorded_hash(data: bytes) -> str | None:
    """The hash that was written into a manifest's text when it was packed. Edited by hand, it differs from `hash`."""
    found = json.loads(data).get("hash")
    return found if isinstance(found, str) else None


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in `data`; `where` names it in errors."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:  # of JSON or of UTF-8
        raise DataError(f"{where}: not JSON ({error}); pack the data set again") from error
    fields = _Fields(where, "", document)
    version = fields.get("format_version", int)
    if version not in READABLE_VERSIONS:
        raise DataError(
            f"{where}: format_version is {version}, this version of dist-seg reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; pack again, or take a newer version"
        )
    task = fields.get("task", str)
    if task not in TASKS:
        raise DataError(f"{where}: task is {task!r}, this version of dist-seg knows {', '.join(TASKS)}")
    names = tuple(fields.items("class_names", str))
    palette = tuple(_rgb(fields.where, f"palette[{i}]", c) for i, c in enumerate(fields.items("palette", list)))
    if not 1 <= len(names) <= MAX_CLASSES or len(palette) != len(names) or len(set(names)) != len(names):
        raise DataError(f"{where}: class_names must be 1 to {MAX_CLASSES} different names, palette as many colours")
    ignore_index = fields.count("ignore_index")
    if not len(names) <= ignore_index <= 255:
        raise DataError(f"{where}: ignore_index is {ignore_index}, must lie between the last class and 255")
    below = fields.below("splits")
    for name in below.names():
        if not SPLIT_NAME.fullmatch(name):  # results are written to files of its name
            raise DataError(f"{where}: splits has the name {name!r}; it must be of letters, digits, _ and -")
    image = _parse_layout(fields.below("image")) if "image" in fields.names() else None
    splits = {name: _parse_split(below.below(name), task, len(names), image) for name in below.names()}
    category_ids = tuple(fields.items("category_ids", int)) if task == "instance" else None
    if category_ids is not None and len(category_ids) != len(names):
        raise DataError(f"{where}: category_ids must be {len(names)} numbers, got {len(category_ids)}")
    _check_unique(where, [shard.name for split in splits.values() for shard in split.shards])
    return Manifest(
        format_version=version,
        task=task,
        class_names=names,
        palette=palette,
        ignore_index=ignore_index,
        category_ids=category_ids,
        image=image,
        splits=splits,
    )


@dataclass(frozen=True)
class _Fields:
    """A JSON object on the way to being checked."""

    where: str
    path: str
    value: object

    def names(self) -> list[str]:
        return list(self._object())

    def below(self, key: str) -> "_Fields":
        return _Fields(self.where, self._name(key), self._raw(key))

    def get(self, key: str, kind: type[T]) -> T:
        value = self._raw(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"{self.where}: {self._name(key)} is {value!r}, must be of type {kind.__name__}")
        return value

    def flag(self, key: str) -> bool:
        """False where it is not there."""
        value = self._object().get(key, False)
        if not isinstance(value, bool):
            raise DataError(f"{self.where}: {self._name(key)} is {value!r}, must be true or false")
        return value

    def count(self, key: str) -> int:
        value = self.get(key, int)
        if not 0 <= value <= _MOST_COUNTED:
            raise DataError(f"{self.where}: {self._name(key)} is {value}, must lie between 0 and {_MOST_COUNTED}")
        return value

    def counts(self, key: str, number: int) -> tuple[int, ...]:
        values = tuple(self.items(key, int))
        if len(values) != number or any(not 0 <= value <= _MOST_COUNTED for value in values):
            raise DataError(
                f"{self.where}: {self._name(key)} must be {number} counts between 0 and {_MOST_COUNTED}, got "
                f"{len(values)} numbers"
            )
        return values

    def items(self, key: str, kind: type[T]) -> list[T]:
        values = self.get(key, list)
        for i, value in enumerate(values):
            if not isinstance(value, kind) or isinstance(value, bool):
                raise DataError(f"{self.where}: {self._name(key)}[{i}] is {value!r}, must be of type {kind.__name__}")
        return values

    def _raw(self, key: str) -> object:
        fields = self._object()
        if key not in fields:
            raise DataError(f"{self.where}: {self._name(key)} is missing")
        return fields[key]

    def _object(self) -> dict[str, object]:
        if not isinstance(self.value, dict):
            raise DataError(f"{self.where}: {self.path or 'the document'} must be a JSON object")
        return self.value

    def _name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def _parse_split(fields: _Fields, task: str, num_classes: int, image: ArrayLayout | None) -> Split:
    pixels = fields.counts("class_pixels", num_classes)
    shards = fields.items("shards", dict)
    return Split(
        shards=tuple(
            _parse_shard(_Fields(fields.where, f"{fields.path}.shards[{i}]", s), num_classes)
            for i, s in enumerate(shards)
        ),
        class_pixels=pixels,
        ignored_pixels=fields.count("ignored_pixels"),
        skipped_samples=fields.count("skipped_samples"),
        objects=_parse_objects(fields.below("objects"), num_classes) if task == "instance" else None,
        channels=_parse_channels(fields.below("channels"), image) if image else None,
    )


def _parse_layout(fields: _Fields) -> ArrayLayout:
    dtype, channels = fields.get("dtype", str), fields.count("channels")
    if dtype not in ("uint8", "uint16") or not 1 <= channels <= MAX_CHANNELS:
        raise DataError(
            f"{fields.where}: image is {channels} channels of {dtype}, must be 1 to {MAX_CHANNELS} of uint8 or uint16"
        )
    return ArrayLayout(dtype="uint16" if dtype == "uint16" else "uint8", channels=channels)


def _parse_channels(fields: _Fields, image: ArrayLayout) -> ChannelStatistics:
    low, high = fields.counts("low", image.channels), fields.counts("high", image.channels)
    mean, std = (tuple(fields.items(key, float)) for key in ("mean", "std"))
    is_possible = all(a <= b <= image.largest for a, b in zip(low, high, strict=True)) and all(
        0 <= value <= image.largest for value in (*mean, *std)
    )
    if not is_possible or not len(mean) == len(std) == image.channels:
        raise DataError(
            f"{fields.where}: {fields.path} must be {image.channels} percentiles, means and deviations between 0 and "
            f"{image.largest}"
        )
    return ChannelStatistics(low=low, high=high, mean=mean, std=std)


def _parse_objects(fields: _Fields, num_classes: int) -> ObjectCounts:
    sides = tuple(fields.items("sides", float))
    if not all(0 <= side < math.inf for side in sides):
        raise DataError(f"{fields.where}: {fields.path}.sides must be lengths in pixels, got {list(sides)}")
    return ObjectCounts(
        class_objects=fields.counts("class_objects", num_classes),
        crowd_objects=fields.count("crowd_objects"),
        max_objects=fields.count("max_objects"),
        sides=sides,
        overfull_objects=fields.count("overfull_objects"),
        hidden_pixels=fields.count("hidden_pixels"),
        skipped_annotations=fields.count("skipped_annotations"),
    )


def _parse_shard(fields: _Fields, num_classes: int) -> ShardInfo:
    name = fields.get("name", str)
    check_name(name, f"{fields.where}: {fields.path}.name")
    num_bytes, samples = fields.count("bytes"), fields.count("samples")
    if num_bytes > _MOST_SHARD_BYTES or samples * _LEAST_SAMPLE_BYTES > num_bytes:
        raise DataError(
            f"{fields.where}: {fields.path} says that {name} holds {samples} samples in {num_bytes} bytes, which "
            "cannot be; pack the data set again"
        )
    class_samples = fields.counts("class_samples", num_classes) if "class_samples" in fields.names() else None
    if class_samples is not None and max(class_samples) > samples:
        raise DataError(
            f"{fields.where}: {fields.path}.class_samples has {max(class_samples)} samples of a class, of {samples}"
        )
    return ShardInfo(
        name=name,
        bytes=num_bytes,
        sha256=fields.get("sha256", str),
        samples=samples,
        index_sha256=fields.get("index_sha256", str),
        sidecar_sha256=fields.get("sidecar_sha256", str),
        class_samples=class_samples,
        indexed=True if fields.flag("indexed") else None,
    )


def check_name(name: str, where: str) -> None:
    """Refuse a shard's name that is not a plain relative path: absolute, upwards, empty parts, a drive or a scheme."""
    parts = name.split("/")
    is_plain = name.isprintable() and not set(name) & set("\\:")
    if not name.endswith(".tar") or any(part in ("", ".", "..") for part in parts) or not is_plain:
        raise DataError(f"{where} is {name!r}; a shard must be a .tar inside the data set's folder")


def _check_unique(where: str, names: list[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise DataError(f"{where}: shard {name} is listed more than once")


def _rgb(where: str, path: str, value: list[object]) -> Rgb:
    match value:
        case [int(red), int(green), int(blue)] if all(0 <= part <= 255 for part in (red, green, blue)):
            return red, green, blue
    raise DataError(f"{where}: {path} is {value!r}, must be three numbers from 0 to 255")
