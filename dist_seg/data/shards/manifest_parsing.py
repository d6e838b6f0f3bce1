"""Reading `manifest.json`: every value in it is checked, and errors name the one that is wrong."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dist_seg.data.codecs.class_ids import MAX_CLASSES
from dist_seg.data.codecs.npy import MAX_CHANNELS, ArrayLayout
from dist_seg.data.codecs.targets import TASKS
from dist_seg.data.shards.counts import counts_hook
from dist_seg.data.shards.manifest import ChannelStatistics, Manifest, ObjectCounts, ShardInfo, Split
from dist_seg.data.shards.names import MANIFEST_NAME, SPLIT_NAME
from dist_seg.errors import DataError
from dist_seg.runtime.documents import decode
from dist_seg.storage.object_store import Storage

READABLE_VERSIONS = (1, 2)

_MOST_SHARD_BYTES = 2**50
_LEAST_SAMPLE_BYTES = 1024
"""A sample has two members at least, each with a header of 512 bytes in the tar."""
_MOST_COUNTED = 2**62
"""Pixels or objects: sums stay within 64 bits."""


@dataclass(frozen=True, kw_only=True)
class _Version:
    format_version: int


@dataclass(frozen=True, kw_only=True)
class _StatedOfSplit:
    skipped_samples: int


@dataclass(frozen=True, kw_only=True)
class _Stated:
    """Fields that a file must have, though `Manifest` has a default for them."""

    task: str
    ignore_index: int
    splits: dict[str, _StatedOfSplit]


def load_manifest(storage: Storage) -> Manifest:
    """Read and check `manifest.json`. Every `DataError` names the file and the key that is wrong."""
    return parse_manifest(storage.read(MANIFEST_NAME), f"{storage.url}/{MANIFEST_NAME}")


def recorded_hash(data: bytes) -> str | None:
    """The hash that was written into a manifest's text when it was packed. Edited by hand, it differs from `hash`."""
    found = json.loads(data).get("hash")
    return found if isinstance(found, str) else None


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in `data`; `where` names it in errors."""
    version = decode(data, _Version, where).format_version
    if version not in READABLE_VERSIONS:
        raise DataError(
            f"format_version is {version}, this version of dist-seg reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; pack again, or take a newer version",
            where=where,
        )
    decode(data, _Stated, where)
    manifest = decode(data, Manifest, where, hook=counts_hook)
    _check_classes(manifest, where)
    if manifest.image is not None:
        _check_layout(manifest.image, where)
    is_instance = manifest.task == "instance"
    for name, split in manifest.splits.items():
        _Check(where=where, manifest=manifest, path=f"splits.{name}").split(split)
    for shard, times in Counter(shard.name for split in manifest.splits.values() for shard in split.shards).items():
        if times > 1:
            raise DataError(f"shard {shard} is listed more than once", where=where)
    splits = {
        name: replace(
            split,
            objects=split.objects if is_instance else None,
            channels=split.channels if manifest.image is not None else None,
        )
        for name, split in manifest.splits.items()
    }
    return replace(manifest, splits=splits, category_ids=manifest.category_ids if is_instance else None)


def _check_classes(manifest: Manifest, where: str) -> None:
    """What describes the classes, and the names of splits."""
    names, ids, ignore_index = manifest.class_names, manifest.category_ids, manifest.ignore_index
    if manifest.task not in TASKS:
        raise DataError(f"task is {manifest.task!r}, this version of dist-seg knows {', '.join(TASKS)}", where=where)
    for i, color in enumerate(manifest.palette):
        if not all(0 <= part <= 255 for part in color):
            raise DataError(f"palette[{i}] is {list(color)}, must be three numbers from 0 to 255", where=where)
    if not 1 <= len(names) <= MAX_CLASSES or len(manifest.palette) != len(names) or len(set(names)) != len(names):
        raise DataError(f"class_names must be 1 to {MAX_CLASSES} different names, palette as many colours", where=where)
    if not len(names) <= ignore_index <= 255:
        raise DataError(f"ignore_index is {ignore_index}, must lie between the last class and 255", where=where)
    for name in manifest.splits:
        if not SPLIT_NAME.fullmatch(name):  # results are written to files of its name
            raise DataError(f"splits has the name {name!r}; it must be of letters, digits, _ and -", where=where)
    if manifest.task != "instance":
        return
    if ids is None:
        raise DataError("category_ids is missing", where=where)
    if len(ids) != len(names):
        raise DataError(f"category_ids must be {len(names)} numbers, got {len(ids)}", where=where)


def _check_layout(image: ArrayLayout, where: str) -> None:
    if not 1 <= image.channels <= MAX_CHANNELS:
        raise DataError(
            f"image is {image.channels} channels of {image.dtype}, must be 1 to {MAX_CHANNELS} of uint8 or uint16",
            where=where,
        )


@dataclass(frozen=True, kw_only=True)
class _Check:
    """Raises DataError for values of a split, at `path` of a manifest, that cannot be."""

    where: str
    manifest: Manifest
    path: str

    def split(self, split: Split) -> None:
        num_classes, image = self.manifest.num_classes, self.manifest.image
        self._counts(f"{self.path}.class_pixels", split.class_pixels, num_classes)
        for key in ("ignored_pixels", "skipped_samples"):
            self._count(f"{self.path}.{key}", getattr(split, key))
        for i, shard in enumerate(split.shards):
            self._shard(f"{self.path}.shards[{i}]", shard)
        if self.manifest.task == "instance":
            self._objects(split.objects)
        if image is not None:
            self._channels(split.channels, image)

    def _shard(self, path: str, shard: ShardInfo) -> None:
        check_name(shard.name, f"{self.where}: {path}.name")
        self._count(f"{path}.bytes", shard.bytes)
        self._count(f"{path}.samples", shard.samples)
        if shard.bytes > _MOST_SHARD_BYTES or shard.samples * _LEAST_SAMPLE_BYTES > shard.bytes:
            raise self._error(
                f"{path} says that {shard.name} holds {shard.samples} samples in {shard.bytes} bytes, which cannot be; "
                "pack the data set again"
            )
        counts = shard.class_samples
        if counts is None:
            return
        self._counts(f"{path}.class_samples", counts, self.manifest.num_classes)
        if max(counts) > shard.samples:
            raise self._error(f"{path}.class_samples has {max(counts)} samples of a class, of {shard.samples}")

    def _objects(self, objects: ObjectCounts | None) -> None:
        if objects is None:
            raise self._error(f"{self.path}.objects is missing")
        self._counts(f"{self.path}.objects.class_objects", objects.class_objects, self.manifest.num_classes)
        for key in ("crowd_objects", "max_objects", "overfull_objects", "hidden_pixels", "skipped_annotations"):
            self._count(f"{self.path}.objects.{key}", getattr(objects, key))
        if not all(0 <= side < math.inf for side in objects.sides):
            raise self._error(f"{self.path}.objects.sides must be lengths in pixels, got {list(objects.sides)}")

    def _channels(self, found: ChannelStatistics | None, image: ArrayLayout) -> None:
        if found is None:
            raise self._error(f"{self.path}.channels is missing")
        for key, counts in (("low", found.low), ("high", found.high)):
            self._counts(f"{self.path}.channels.{key}", counts, image.channels)
        is_possible = all(a <= b <= image.largest for a, b in zip(found.low, found.high, strict=True)) and all(
            0 <= value <= image.largest for value in (*found.mean, *found.std)
        )
        if not is_possible or not len(found.mean) == len(found.std) == image.channels:
            raise self._error(
                f"{self.path}.channels must be {image.channels} percentiles, means and deviations between 0 and "
                f"{image.largest}"
            )

    def _count(self, path: str, value: int) -> None:
        if not 0 <= value <= _MOST_COUNTED:
            raise self._error(f"{path} is {value}, must lie between 0 and {_MOST_COUNTED}")

    def _counts(self, path: str, values: Sequence[int], number: int) -> None:
        if len(values) != number or not 0 <= min(values) <= max(values) <= _MOST_COUNTED:
            raise self._error(
                f"{path} must be {number} counts between 0 and {_MOST_COUNTED}, got {len(values)} numbers"
            )

    def _error(self, reason: str) -> DataError:
        return DataError(reason, where=self.where)


def check_name(name: str, where: str) -> None:
    """Refuse a shard's name that is not a plain relative path: absolute, upwards, empty parts, a drive or a scheme."""
    parts = name.split("/")
    is_plain = name.isprintable() and not set(name) & set("\\:")
    if not name.endswith(".tar") or any(part in ("", ".", "..") for part in parts) or not is_plain:
        raise DataError(f"{where} is {name!r}; a shard must be a .tar inside the data set's folder")
