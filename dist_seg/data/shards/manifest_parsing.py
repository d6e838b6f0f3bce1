"""Reading `manifest.json`: whatever stands in it is checked, and what is wrong is named."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from dist_seg.data.codecs.class_ids import MAX_CLASSES
from dist_seg.data.codecs.npy import MAX_CHANNELS, ArrayLayout
from dist_seg.data.codecs.targets import TASKS
from dist_seg.data.shards.counts import LARGEST, Counts
from dist_seg.data.shards.manifest import ChannelStatistics, Manifest, ObjectCounts, ShardInfo, Split
from dist_seg.data.shards.names import MANIFEST_NAME, SPLIT_NAME
from dist_seg.errors import DataError
from dist_seg.masks.palette import Rgb
from dist_seg.storage.object_store import Storage

READABLE_VERSIONS = (1, 2)

_MOST_SHARD_BYTES = 2**50
_LEAST_SAMPLE_BYTES = 1024
"""A sample has two members at least, each with a header of 512 bytes in the tar."""
_MOST_COUNTED = 2**62
"""Of pixels or objects: sums stay within 64 bits."""

T = TypeVar("T")


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
        document = json.loads(data, object_hook=_with_compact_counts)
    except (ValueError, RecursionError) as error:  # of JSON or of UTF-8
        raise DataError(f"not JSON ({error}); pack the data set again", where=where) from error
    fields = _Fields(where, "", document)
    version = fields.get("format_version", int)
    if version not in READABLE_VERSIONS:
        raise DataError(
            f"format_version is {version}, this version of dist-seg reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; pack again, or take a newer version",
            where=where,
        )
    task = fields.get("task", str)
    if task not in TASKS:
        raise DataError(f"task is {task!r}, this version of dist-seg knows {', '.join(TASKS)}", where=where)
    names = tuple(fields.items("class_names", str))
    palette = tuple(_rgb(fields.where, f"palette[{i}]", c) for i, c in enumerate(fields.items("palette", list)))
    if not 1 <= len(names) <= MAX_CLASSES or len(palette) != len(names) or len(set(names)) != len(names):
        raise DataError(f"class_names must be 1 to {MAX_CLASSES} different names, palette as many colours", where=where)
    ignore_index = fields.count("ignore_index")
    if not len(names) <= ignore_index <= 255:
        raise DataError(f"ignore_index is {ignore_index}, must lie between the last class and 255", where=where)
    below = fields.below("splits")
    for name in below.names():
        if not SPLIT_NAME.fullmatch(name):  # results are written to files of its name
            raise DataError(f"splits has the name {name!r}; it must be of letters, digits, _ and -", where=where)
    image = _parse_layout(fields.below("image")) if "image" in fields.names() else None
    splits = {name: _parse_split(below.below(name), task, len(names), image) for name in below.names()}
    category_ids = tuple(fields.items("category_ids", int)) if task == "instance" else None
    if category_ids is not None and len(category_ids) != len(names):
        raise DataError(f"category_ids must be {len(names)} numbers, got {len(category_ids)}", where=where)
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


def _with_compact_counts(fields: dict[str, object]) -> dict[str, object]:
    """A JSON object with its counts, of a shard, made compact while the document is read: numbers of all shards need
    not be there at once otherwise. What is not such counts stays, to be refused by its place.
    """
    match fields:
        case {"class_samples": list(counts)} if set(map(type, counts)) == {int}:
            if 0 <= min(counts) <= max(counts) <= LARGEST:
                fields["class_samples"] = Counts(counts)
    return fields


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
            raise DataError(f"{self._name(key)} is {value!r}, must be of type {kind.__name__}", where=self.where)
        return value

    def flag(self, key: str) -> bool:
        """False where it is not there."""
        value = self._object().get(key, False)
        if not isinstance(value, bool):
            raise DataError(f"{self._name(key)} is {value!r}, must be true or false", where=self.where)
        return value

    def count(self, key: str) -> int:
        value = self.get(key, int)
        if not 0 <= value <= _MOST_COUNTED:
            raise DataError(f"{self._name(key)} is {value}, must lie between 0 and {_MOST_COUNTED}", where=self.where)
        return value

    def counts(self, key: str, number: int) -> tuple[int, ...]:
        return tuple(self._counts(key, number, self.items(key, int)))

    def compact_counts(self, key: str, number: int) -> Counts:
        """As `counts`, of numbers that `_with_compact_counts` has seen."""
        found = self._raw(key)
        values = self._counts(key, number, found if isinstance(found, Counts) else self.items(key, int))
        return values if isinstance(values, Counts) else Counts(values)

    def _counts(self, key: str, number: int, values: Sequence[int]) -> Sequence[int]:
        if len(values) != number or not 0 <= min(values) <= max(values) <= _MOST_COUNTED:
            raise DataError(
                f"{self._name(key)} must be {number} counts between 0 and {_MOST_COUNTED}, got {len(values)} numbers",
                where=self.where,
            )
        return values

    def items(self, key: str, kind: type[T]) -> list[T]:
        values = self.get(key, list)
        for i, value in enumerate(values):
            if not isinstance(value, kind) or isinstance(value, bool):
                reason = f"{self._name(key)}[{i}] is {value!r}, must be of type {kind.__name__}"
                raise DataError(reason, where=self.where)
        return values

    def _raw(self, key: str) -> object:
        fields = self._object()
        if key not in fields:
            raise DataError(f"{self._name(key)} is missing", where=self.where)
        return fields[key]

    def _object(self) -> dict[str, object]:
        if not isinstance(self.value, dict):
            raise DataError(f"{self.path or 'the document'} must be a JSON object", where=self.where)
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
            f"image is {channels} channels of {dtype}, must be 1 to {MAX_CHANNELS} of uint8 or uint16",
            where=fields.where,
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
            f"{fields.path} must be {image.channels} percentiles, means and deviations between 0 and {image.largest}",
            where=fields.where,
        )
    return ChannelStatistics(low=low, high=high, mean=mean, std=std)


def _parse_objects(fields: _Fields, num_classes: int) -> ObjectCounts:
    sides = tuple(fields.items("sides", float))
    if not all(0 <= side < math.inf for side in sides):
        raise DataError(f"{fields.path}.sides must be lengths in pixels, got {list(sides)}", where=fields.where)
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
            f"{fields.path} says that {name} holds {samples} samples in {num_bytes} bytes, which "
            "cannot be; pack the data set again",
            where=fields.where,
        )
    class_samples = fields.compact_counts("class_samples", num_classes) if "class_samples" in fields.names() else None
    if class_samples is not None and max(class_samples) > samples:
        raise DataError(
            f"{fields.path}.class_samples has {max(class_samples)} samples of a class, of {samples}",
            where=fields.where,
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
            raise DataError(f"shard {name} is listed more than once", where=where)


def _rgb(where: str, path: str, value: list[object]) -> Rgb:
    match value:
        case [int(red), int(green), int(blue)] if all(0 <= part <= 255 for part in (red, green, blue)):
            return red, green, blue
    raise DataError(f"{path} is {value!r}, must be three numbers from 0 to 255", where=where)
