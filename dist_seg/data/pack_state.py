"""What packing remembers between runs: which shards are whole, and what they were made from."""

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dist_seg.data.manifest import MANIFEST_NAME, Manifest, ShardInfo
from dist_seg.data.pack_shard import PackedShard, Refusal
from dist_seg.data.shards import PARTIAL_MARK, atomic_write
from dist_seg.errors import DataError

RECORD_NAME = "pack.json"
"""In a finished data set: the record of every shard, for a later run."""
UNFINISHED_NAME = ".pack"
"""A folder with a record for every shard that is whole, until the data set is finished."""

_LOCK_NAME = ".pack.lock"
_OWN_FILES = re.compile(r"\w[\w-]*-\d{6}\.(tar|idx|samples)")
_HASH_CHUNK = 2**20


@dataclass(frozen=True, kw_only=True)
class PackState:
    """The record of the folder that is being packed into."""

    out: Path
    records: dict[str, PackedShard] = field(default_factory=dict)

    def kept(self, name: str, fingerprint: str, skip_bad: bool) -> PackedShard | None:
        """The shard's record, if it is there, undamaged, and what would be written now."""
        record = self.records.get(name)
        if record is None or record.fingerprint != fingerprint or (record.skipped and not skip_bad):
            return None
        info = record.info
        files = ((name, info.sha256), (info.index_name, info.index_sha256), (info.sidecar_name, info.sidecar_sha256))
        if info.samples and not all(file_sha256(self.out / file) == digest for file, digest in files):
            return None
        return record

    def record(self, shard: PackedShard) -> None:
        """Remember that the shard is whole. One without samples, all having been skipped, is removed."""
        if not shard.info.samples:
            for name in (shard.info.name, shard.info.index_name, shard.info.sidecar_name):
                (self.out / name).unlink(missing_ok=True)
        with atomic_write(self.out / UNFINISHED_NAME / f"{shard.info.name}.json") as file:
            file.write(json.dumps([asdict(shard)]).encode())

    def finish(self, shards: Sequence[PackedShard], manifest: Manifest) -> None:
        """Write record and manifest, the manifest last: with it the data set is there."""
        with atomic_write(self.out / RECORD_NAME) as file:
            file.write((json.dumps([asdict(shard) for shard in shards], indent=1) + "\n").encode())
        with atomic_write(self.out / MANIFEST_NAME) as file:
            file.write(manifest.to_json().encode())
        for path in (self.out / UNFINISHED_NAME).iterdir():
            path.unlink()
        (self.out / UNFINISHED_NAME).rmdir()


@contextmanager
def open_state(out: Path, plan: Sequence[tuple[str, str]], *, overwrite: bool) -> Iterator[PackState]:
    """Take the folder for packing shards of these (name, fingerprint) pairs, and clear what does not belong there.

    Raises `DataError` for a folder that holds files of others, another finished data set (unless `overwrite`), or that
    is being packed into by another process.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made a folder: {error.strerror}") from error
    _refuse_foreign(out)
    with _locked(out):
        finished = _read_records(out / RECORD_NAME)
        same = [(record.info.name, record.fingerprint) for record in finished] == list(plan)
        if (out / MANIFEST_NAME).exists() and not same:
            if not overwrite:
                raise DataError(
                    f"{out}: holds a data set that was packed from another source, or with other options, or whose "
                    "source has changed since; pack into another folder, or replace it (--overwrite)"
                )
            (out / MANIFEST_NAME).unlink()
        unfinished = [r for path in sorted((out / UNFINISHED_NAME).glob("*.json")) for r in _read_records(path)]
        _clear(out, keep={name for name, _ in plan})
        (out / UNFINISHED_NAME).mkdir(exist_ok=True)
        yield PackState(out=out, records={record.info.name: record for record in [*finished, *unfinished]})


def file_sha256(path: Path) -> str | None:
    """In hexadecimal; None for a file that is not there."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def is_own_file(name: str) -> bool:
    """Whether a file of this name in a data set's folder is packing's."""
    own = name in (MANIFEST_NAME, RECORD_NAME, UNFINISHED_NAME, _LOCK_NAME)
    return own or _OWN_FILES.fullmatch(name.split(PARTIAL_MARK)[0]) is not None


def _refuse_foreign(out: Path) -> None:
    found = {path.name for path in out.iterdir()}
    foreign = sorted(name for name in found if not is_own_file(name) and not name.startswith("."))
    if foreign and not found & {MANIFEST_NAME, RECORD_NAME, UNFINISHED_NAME}:
        raise DataError(f"{out}: holds other files ({foreign[0]}, ...); give a new or empty folder")


def _clear(out: Path, keep: set[str]) -> None:
    """Remove halves of files, and shards that no longer are part of the plan."""
    stems = {name.removesuffix(".tar") for name in keep}
    for path in [*out.iterdir(), *(out / UNFINISHED_NAME).glob("*")]:
        if PARTIAL_MARK in path.name or (_OWN_FILES.fullmatch(path.name) and path.stem not in stems):
            path.unlink(missing_ok=True)


def _read_records(path: Path) -> list[PackedShard]:
    """The records in a file of ours. What is not there or cannot be read counts as not packed."""
    try:
        return [_record(fields) for fields in json.loads(path.read_bytes())]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return []


def _record(fields: dict[str, object]) -> PackedShard:
    match fields:
        case {"split": str(split), "fingerprint": str(fingerprint), "info": dict(info), "skipped": list(skipped)}:
            return PackedShard(
                split=split,
                fingerprint=fingerprint,
                info=ShardInfo(**info),
                class_pixels=_counts(fields["class_pixels"]),
                ignored_pixels=sum(_counts([fields["ignored_pixels"]])),
                skipped=tuple(Refusal(**refusal) for refusal in skipped),
            )
    raise ValueError("not a record of a packed shard")


def _counts(values: object) -> tuple[int, ...]:
    match values:
        case list():
            return tuple(int(value) for value in values)
    raise ValueError("not a list of counts")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One packing process a folder, where the system has file locks. Held by the open file: a crash frees it."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    path = out / _LOCK_NAME
    try:
        file = path.open("w")
    except OSError as error:
        raise DataError(f"{out}: cannot be written to: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{out}: is being packed into by another process") from error
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
