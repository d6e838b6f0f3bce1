"""Packing on many machines: which shards belong to a part, and the file that describes a packed part.

Every machine lists the same source, plans all shards and packs every n-th one. Each part has a folder of its own: only
one machine writes to a folder, so nothing depends on the locks or renames of a shared file system. The folder holds
`part.json` instead of a manifest, so that a part is never mistaken for the whole data set.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from dist_seg.data.packing.records import RecordedOptions
from dist_seg.data.packing.shard_plan import ShardJob
from dist_seg.data.shards.manifest import Manifest
from dist_seg.data.shards.manifest_parsing import parse_manifest
from dist_seg.data.shards.names import shard_key
from dist_seg.errors import DataError, UserError
from dist_seg.runtime.documents import decode

PART_NAME = "part.json"
FOLDER_NAME = re.compile(r"part-\d+-of-\d+")
_WRITTEN = re.compile(r"(\d+)/(\d+)")
_FORMAT_VERSION = 2
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The share of one machine: part `number` of `count`, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a text such as `2/8`. Raises `UserError`."""
        match = _WRITTEN.fullmatch(text)
        if match is None or not 1 <= int(match.group(1)) <= int(match.group(2)):
            raise UserError(f"--part {text}: write it as I/N with I from 1 to N, such as 2/8")
        return cls(number=int(match.group(1)), count=int(match.group(2)))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder_name(self) -> str:
        digits = len(str(self.count))
        return f"part-{self.number:0{digits}d}-of-{self.count}"

    def share(self, jobs: Sequence[T]) -> list[T]:
        """Every `count`-th job, so that each part gets its share of every split."""
        return list(jobs[self.number - 1 :: self.count])


@dataclass(frozen=True, kw_only=True)
class PackedPart:
    """What `part.json` says. The shards' records are in `pack.json` beside it."""

    part: Part
    header: Manifest
    """The manifest of the data set without its splits."""
    plan: str
    """Hash of the plan of all parts: which samples go into which shard."""
    contents: str
    """Hash of the portable versions of all parts' samples, which also say what the masks mean."""
    plan_shards: int
    """Number of shards of all parts."""
    plan_samples: int
    options: RecordedOptions
    """The options that decide what is in the shards, by their names on the command line."""
    records_sha256: str

    def to_json(self) -> str:
        document = _Document(
            format_version=_FORMAT_VERSION,
            part=self.part.number,
            parts=self.part.count,
            plan=self.plan,
            contents=self.contents,
            plan_shards=self.plan_shards,
            plan_samples=self.plan_samples,
            options=self.options,
            records_sha256=self.records_sha256,
            data=json.loads(self.header.to_json()),
        )
        return json.dumps(vars(document), indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True, kw_only=True)
class _Document:
    """The fields of `part.json`."""

    format_version: int
    part: int
    parts: int
    plan: str
    contents: str
    plan_shards: int
    plan_samples: int
    options: RecordedOptions
    records_sha256: str
    data: dict[str, object]
    """The fields of `manifest.json`, without splits."""


@dataclass(frozen=True, kw_only=True)
class _Version:
    """The field that every version of `part.json` has."""

    format_version: int


def read_part(folder: Path) -> PackedPart:
    """Read `part.json` in the folder. Raises `DataError` that names it."""
    path = folder / PART_NAME
    try:
        data = path.read_bytes()
        version = decode(data, _Version, str(path)).format_version
        if version == _FORMAT_VERSION:
            return _part(decode(data, _Document, str(path)), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; pack the part again") from error
    except UserError as error:
        raise DataError(f"{error}; pack the part again") from error
    raise DataError(
        f"{path}: format_version is {version}, but this version of dist-seg reads {_FORMAT_VERSION}; pack the part "
        "again: its shards are kept"
    )


def _part(document: _Document, where: str) -> PackedPart:
    return PackedPart(
        part=Part.parse(f"{document.part}/{document.parts}"),
        header=parse_manifest(json.dumps(document.data).encode(), where),
        plan=document.plan,
        contents=document.contents,
        plan_shards=document.plan_shards,
        plan_samples=document.plan_samples,
        options=document.options,
        records_sha256=document.records_sha256,
    )


def plan_digest(jobs: Sequence[ShardJob]) -> str:
    """Hash of the plan: which samples, by key and size, go into which shard.

    Modification times are left out, because each machine may have its own copy of the raw data.
    """
    digest = hashlib.sha256()
    for job in jobs:
        listing = [job.name, [[shard_key(sample.key), sample.num_bytes] for sample in job.samples]]
        digest.update(json.dumps(listing).encode())
    return digest.hexdigest()


def contents_digest(jobs: Sequence[ShardJob]) -> str:
    """Hash of the samples' portable versions."""
    digest = hashlib.sha256()
    for job in jobs:
        digest.update(json.dumps([sample.portable_version for sample in job.samples]).encode())
    return digest.hexdigest()
