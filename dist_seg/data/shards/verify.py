"""Compares a packed data set with its manifest, byte by byte."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dist_seg.data.shards.manifest import Manifest, ShardInfo, Split
from dist_seg.data.shards.manifest_parsing import parse_manifest, recorded_hash
from dist_seg.data.shards.names import INDEX_RECORD_NAME, MANIFEST_NAME, RECORD_NAME
from dist_seg.data.shards.object_counts import ShardObjects, object_counts
from dist_seg.data.shards.sidecar import INSTANCE_ROLES, Sidecar, crc32c
from dist_seg.data.shards.tar_headers import PassingHeaders
from dist_seg.data.shards.verify_objects import PassingObjects, object_differences
from dist_seg.errors import DataError, MissingObjectError
from dist_seg.runtime.progress_bar import OnProgress, SharedCount
from dist_seg.storage.files import PARTIAL_MARK
from dist_seg.storage.object_store import Storage, open_storage

_CHUNK_BYTES = 4 * 2**20
_MAX_NAMED_MEMBERS = 10
_RETRY_S = 20.0
"""Short, because somebody waits for the answer."""
_SHARD_FILES = (".tar", ".idx", ".samples")
_EXTRA = "is not in the manifest"
_LEFT_OVER = "is left over from packing that was interrupted"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is not what was packed."""

    name: str
    """The file."""
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def verify(root: str | Path, *, workers: int = 2, progress: OnProgress | None = None) -> list[Problem]:
    """Everything at a folder or URL that differs from its manifest; empty if the data is what was packed.

    Reads every byte once, in pieces, so memory does not grow with the data. Each of the `workers` threads reads one
    shard at a time. `progress` counts bytes. Finds files that do not belong there if the storage can list its files (an
    HTTP server cannot). Raises `DataError` if there is no manifest, `StorageError` if the disk or network fails.
    """
    storage = open_storage(root, retry_s=_RETRY_S)
    data = storage.read(MANIFEST_NAME)
    try:
        manifest = parse_manifest(data, MANIFEST_NAME)
    except DataError as error:
        return [Problem(name=MANIFEST_NAME, reason=error.reason)]
    problems = _manifest_problems(data, manifest)
    shards = [(name, shard) for name, split in manifest.splits.items() for shard in split.shards]
    counter = SharedCount(sum(shard.bytes for _, shard in shards), progress)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        checked = list(pool.map(lambda shard: _check_shard(storage, manifest, shard[1], counter), shards))
    problems += [problem for shard in checked for problem in shard.problems]
    if not problems:
        for name, split in manifest.splits.items():
            of_split = [found for (owner, _), found in zip(shards, checked, strict=True) if owner == name]
            problems += _count_problems(manifest, name, split, of_split)
    return problems + _extra_files(storage, manifest)


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """What was found in one shard."""

    problems: tuple[Problem, ...]
    pixels: int = 0
    """Pixels of its images."""
    objects: ShardObjects | None = None
    class_pixels: tuple[int, ...] = ()
    """Pixels of its objects by class. Instance data only."""


def _manifest_problems(data: bytes, manifest: Manifest) -> list[Problem]:
    recorded = recorded_hash(data)
    if recorded == manifest.hash:
        return []
    reason = "was changed after it was packed (its contents do not match the hash in it)"
    return [Problem(name=MANIFEST_NAME, reason=reason)]


def _check_shard(storage: Storage, manifest: Manifest, shard: ShardInfo, counter: SharedCount) -> _Checked:
    problems: list[Problem] = []
    index = _read_whole(storage, shard.index_name, shard.index_sha256, problems)
    data = _read_whole(storage, shard.sidecar_name, shard.sidecar_sha256, problems)
    sidecar: Sidecar | None = None
    if data is not None:
        try:
            sidecar = Sidecar.parse(data, shard.sidecar_name)
            sidecar.check(shard.samples, shard.bytes, shard.sidecar_name, shard.class_samples)
        except DataError as error:  # the sha256 is right, so it was packed like this
            return _Checked(problems=(*problems, Problem(name=shard.sidecar_name, reason=error.reason)))
    if index is not None and (num_lines := index.count(b"\n") - 1) != shard.samples:
        reason = f"lists {num_lines} samples, but the manifest says {shard.samples}"
        problems.append(Problem(name=shard.index_name, reason=reason))
    if sidecar and (wrong := _wrong_images(sidecar, manifest)):
        return _Checked(problems=(*problems, Problem(name=shard.sidecar_name, reason=wrong)))
    passing: PassingObjects | None = None
    if sidecar and manifest.target_kind.has_objects:
        if sidecar.roles != INSTANCE_ROLES:
            return _Checked(
                problems=(Problem(name=shard.sidecar_name, reason="lists no annotations, which instance data needs"),)
            )
        passing = PassingObjects(sidecar, manifest.num_classes)
    problems += _check_tar(storage, shard, sidecar, passing, counter)
    pixels = sum(int(h) * int(w) for h, w in zip(sidecar.heights, sidecar.widths, strict=True)) if sidecar else 0
    objects, class_pixels = passing.counts() if passing else (None, ())
    return _Checked(problems=tuple(problems), pixels=pixels, objects=objects, class_pixels=class_pixels)


def _wrong_images(sidecar: Sidecar, manifest: Manifest) -> str | None:
    """What is wrong if the sidecar lists images of another kind than the manifest; None if nothing is."""
    array = manifest.image
    for i in range(sidecar.num_samples):
        member, height, width = sidecar.member(i, "image"), sidecar.height(i), sidecar.width(i)
        if (member.suffix == "npy") != bool(array):
            kind = f"arrays of {array}" if array else "pictures"
            return f"lists {sidecar.key(i)}.{member.suffix}, but the manifest's images are {kind}"
        if array and member.length != array.num_bytes(height, width):
            return f"lists {sidecar.key(i)}.npy with {member.length} bytes, which does not fit {width}x{height} pixels"
    return None


def _read_whole(storage: Storage, name: str, sha256: str, problems: list[Problem]) -> bytes | None:
    """Read a small file. Returns None and adds a problem if it is missing or damaged."""
    try:
        data = storage.read(name)
    except MissingObjectError:
        problems.append(Problem(name=name, reason="is missing"))
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        problems.append(Problem(name=name, reason="differs from what was packed (sha256)"))
        return None
    return data


def _check_tar(
    storage: Storage, shard: ShardInfo, sidecar: Sidecar | None, passing: PassingObjects | None, counter: SharedCount
) -> list[Problem]:
    try:
        size = storage.size(shard.name)
    except MissingObjectError:
        return [Problem(name=shard.name, reason="is missing")]
    if size < shard.bytes:
        lost = ""
        if sidecar:
            lost = f"; {_num_lost(sidecar, size)} of {sidecar.num_samples} samples are cut off"
        return [Problem(name=shard.name, reason=f"is truncated: {size} of {shard.bytes} bytes{lost}")]
    if size > shard.bytes:
        return [Problem(name=shard.name, reason=f"has {size} bytes, {size - shard.bytes} more than were packed")]
    digest, headers = hashlib.sha256(), PassingHeaders(sidecar, indexed=bool(shard.indexed)) if sidecar else None
    for offset in range(0, size, _CHUNK_BYTES):
        chunk = storage.read_range(shard.name, offset, min(_CHUNK_BYTES, size - offset))
        digest.update(chunk)
        if headers:
            headers.feed(offset, chunk)
        if passing:
            passing.feed(offset, chunk)
        counter.add(len(chunk))
    if digest.hexdigest() == shard.sha256:
        reasons = [*(headers.problems if headers else ()), *(passing.problems if passing else ())]
        return [Problem(name=shard.name, reason=reason) for reason in reasons]
    if sidecar is None:
        return [Problem(name=shard.name, reason="differs from what was packed (sha256)")]
    return _damaged_members(storage, shard, sidecar)


def _damaged_members(storage: Storage, shard: ShardInfo, sidecar: Sidecar) -> list[Problem]:
    damaged = []
    for key, suffix, offset, length, crc in _members(sidecar):
        if crc32c(storage.read_range(shard.name, offset, length)) != crc:
            damaged.append(f"{key}.{suffix}")
    if not damaged:
        return [Problem(name=shard.name, reason="differs from what was packed, outside the samples (in a tar header)")]
    named = [Problem(name=shard.name, reason=f"{member} is damaged (crc32c)") for member in damaged]
    if len(named) > _MAX_NAMED_MEMBERS:
        more = f"and {len(named) - _MAX_NAMED_MEMBERS} more members are damaged"
        return [*named[:_MAX_NAMED_MEMBERS], Problem(name=shard.name, reason=more)]
    return named


def _members(sidecar: Sidecar) -> Iterator[tuple[str, str, int, int, int]]:
    for i in range(sidecar.num_samples):
        for role in sidecar.roles:
            member = sidecar.member(i, role)
            yield sidecar.key(i), member.suffix, member.offset, member.length, member.crc32c


def _num_lost(sidecar: Sidecar, size: int) -> int:
    members = ([sidecar.member(i, role) for role in sidecar.roles] for i in range(sidecar.num_samples))
    return sum(any(member.offset + member.length > size for member in of_sample) for of_sample in members)


def _count_problems(manifest: Manifest, name: str, split: Split, shards: Sequence[_Checked]) -> list[Problem]:
    """Compares a split's counts with its shards.

    Pixels must match the images' sizes, objects the annotations, and classes the samples that hold them.
    """
    kind = manifest.target_kind
    if not kind.overlaps and not kind.has_objects:  # every pixel is counted once
        counted, there = sum(split.class_pixels) + split.ignored_pixels, sum(shard.pixels for shard in shards)
        differences = [f"counts {counted} pixels, but its images have {there}"] if counted != there else []
    else:
        found = object_counts([shard.objects for shard in shards if shard.objects])
        pixels = [sum(counts) for counts in zip(*(shard.class_pixels for shard in shards), strict=True)]
        differences = list(object_differences(split, found, pixels, manifest.class_names)) if found else []
    differences += _class_differences(manifest, split)
    return [Problem(name=MANIFEST_NAME, reason=f"split {name}: {text}") for text in differences]


def _class_differences(manifest: Manifest, split: Split) -> Iterator[str]:
    """A class must have pixels, or objects, if and only if samples hold it."""
    if any(shard.class_samples is None for shard in split.shards):
        return
    counts, what = (split.objects.class_objects, "objects") if split.objects else (split.class_pixels, "pixels")
    holders = [sum(counts) for counts in zip(*(shard.class_samples or () for shard in split.shards), strict=True)]
    for name, count, samples in zip(manifest.class_names, counts, holders, strict=True):
        if (count > 0) != (samples > 0):
            yield f"counts {count} {what} of class {name}, but {samples} samples that hold it"


def _extra_files(storage: Storage, manifest: Manifest) -> list[Problem]:
    if storage.url.startswith(("http://", "https://")):
        return []
    known = {MANIFEST_NAME, RECORD_NAME, INDEX_RECORD_NAME}
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    for shard in shards:
        known |= {shard.name, shard.index_name, shard.sidecar_name}
    extra = [name for name in storage.list() if name not in known and not name.startswith(".")]
    if any(
        shard.indexed for shard in shards
    ):  # the folder belongs to somebody else: other files are none of our business
        extra = [name for name in extra if name.endswith(_SHARD_FILES) or PARTIAL_MARK in name]
    return [Problem(name=name, reason=_LEFT_OVER if PARTIAL_MARK in name else _EXTRA) for name in extra]
