"""What packing remembers between runs: which shards are whole, and what they were made from."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from dist_seg.data.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, parse_manifest, recorded_hash
from dist_seg.data.pack_part import FOLDER_NAME, PART_NAME, read_part
from dist_seg.data.pack_records import Options, read_records, records_text
from dist_seg.data.pack_shard import PackedShard
from dist_seg.data.shards import PARTIAL_MARK, atomic_write
from dist_seg.errors import DataError
from dist_seg.runtime.files import path_errors
from dist_seg.runtime.storage import StorageError

RECORD_NAME = "pack.json"
"""In a finished data set: the record of every shard, for a later run."""
INDEX_NAME = "index.dist-seg.json"
"""The same of tars that others wrote and that were indexed. `index.json` is the list of shards of WebDataset's wids."""
UNFINISHED_NAME = ".pack"
"""A folder with a record for every shard that is whole, until the data set is finished."""

_LOCK_NAME = ".pack.lock"
_NAMES_NAME = "names"
"""In the folder above: the shards that may lie there, from before the first is written."""
_WAITING = "records-"
"""There, too, and with the hash of the document that they are waiting for: records that become `pack.json` then."""
_WAITING_NAME = re.compile(rf"{_WAITING}[0-9a-f]{{64}}")
_HASH_CHUNK = 2**20
_DOCUMENTS = (MANIFEST_NAME, PART_NAME)


@dataclass(frozen=True, kw_only=True)
class PackState:
    """The record of the folder that is being packed into."""

    out: Path
    document: str = MANIFEST_NAME
    """The file with which the data set is there."""
    records: dict[str, PackedShard] = field(default_factory=dict)

    def kept(self, name: str, fingerprint: str, skip_bad: bool) -> PackedShard | None:
        """The shard's record, if it is there, undamaged, and what would be written now."""
        record = self.records.get(name)
        if record is None or record.fingerprint != fingerprint or (record.left_out and not skip_bad):
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
        with atomic_write(_record_path(self.out, shard.info.name)) as file:
            file.write(json.dumps([asdict(shard)]).encode())

    def finish(self, shards: Sequence[PackedShard] | None, text: str, options: Options | None = None) -> None:
        """Write the records, if there are any, and the document: with it the data set is there.

        The records of before go with the document of before. So the new ones wait for theirs under its hash, by which
        `read_finished` finds them should we be cut off.
        """
        waiting = self.out / UNFINISHED_NAME / f"{_WAITING}{hashlib.sha256(text.encode()).hexdigest()}"
        if shards is None:
            (self.out / RECORD_NAME).unlink(missing_ok=True)
        else:
            with atomic_write(waiting) as file:
                file.write(records_text(shards, options))
        with atomic_write(self.out / self.document) as file:
            file.write(text.encode())
        if shards is not None:
            with path_errors(self.out / RECORD_NAME, kind=StorageError):
                waiting.replace(self.out / RECORD_NAME)
        for path in (self.out / UNFINISHED_NAME).iterdir():
            if _is_hidden(path.name.partition(PARTIAL_MARK)[0]):
                path.unlink()
        with suppress(OSError):  # another's file lies in it
            (self.out / UNFINISHED_NAME).rmdir()


@contextmanager
def open_state(
    out: Path,
    plan: Sequence[tuple[str, str]],
    *,
    overwrite: bool,
    document: str = MANIFEST_NAME,
    extends: Manifest | None = None,
    occupied: str | None = None,
) -> Iterator[PackState]:
    """Take the folder for packing shards of these (name, fingerprint) pairs, and clear what does not belong there.

    document: what is written last, `manifest.json` or `part.json`. extends: of a data set that stays, its manifest; its
    shards are part of the plan. occupied: of a folder that holds another finished data set, what it holds and what to
    do. Raises `DataError` for such a folder (unless `overwrite`), for one that holds files of others, or that is being
    packed into by another process.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made a folder: {error.strerror}") from error
    with locked(out):
        _complete(out)
        finished = read_records(out / RECORD_NAME)
        planned, own = {name for name, _ in plan}, _own_shards(out)
        _refuse_foreign(out, own, planned)
        same = [(record.info.name, record.fingerprint) for record in finished] == list(plan)
        there = [name for name in _DOCUMENTS if (out / name).exists()]
        if extends is not None and _manifest_in(out) != extends:
            raise DataError(f"{out}: its manifest has changed meanwhile; run the same command again")
        if there and not (overwrite or extends or (same and there == [document])):
            raise DataError(f"{out}: holds {occupied or _occupied(out, there)}")
        with path_errors(out / UNFINISHED_NAME, kind=DataError):
            (out / UNFINISHED_NAME).mkdir(exist_ok=True)
        with atomic_write(out / UNFINISHED_NAME / _NAMES_NAME) as file:
            file.write(json.dumps(sorted(planned.union(own or ()))).encode())
        for name in there:
            if not extends and (name != document or not same):
                (out / name).unlink()
        unfinished = _unfinished_records(out)
        _clear(out, own=planned.union(own or ()), planned=planned)
        yield PackState(
            out=out, document=document, records={record.info.name: record for record in [*finished, *unfinished]}
        )


def read_manifest(folder: Path) -> Manifest:
    """Of a finished data set that more is made of. Raises `DataError` for one that was changed since."""
    path = folder / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    manifest = parse_manifest(data, str(path))
    if recorded_hash(data) != manifest.hash:
        raise DataError(f"{path}: was changed after it was packed; run verify, or pack it again")
    return manifest


def read_finished(out: Path) -> list[PackedShard]:
    """The records of the document that is there, wherever they lie."""
    return read_records(_waiting_records(out) or out / RECORD_NAME)


def read_options(out: Path) -> Options | None:
    """With which all of the finished data set was packed, by the names that the user knows; None where nobody knows."""
    try:
        match json.loads((_waiting_records(out) or out / RECORD_NAME).read_bytes()):
            case {"options": dict(options)}:
                return options
    except (OSError, ValueError):
        pass
    return None


def _waiting_records(out: Path) -> Path | None:
    """Records whose document was written, and then finishing was cut off."""
    for name in _DOCUMENTS:
        path = out / UNFINISHED_NAME / f"{_WAITING}{file_sha256(out / name)}"
        if path.is_file():
            return path
    return None


def _complete(out: Path) -> None:
    """Finish what was cut off between document and records; records whose document was not written are of no use."""
    if waiting := _waiting_records(out):
        with path_errors(out / RECORD_NAME, kind=StorageError):
            waiting.replace(out / RECORD_NAME)
    for path in (out / UNFINISHED_NAME).glob(f"{_WAITING}*"):
        if _is_hidden(path.name):
            path.unlink()


def _occupied(out: Path, there: Sequence[str]) -> str:
    """What a folder holds in the way of packing another data set, and what to do."""
    if PART_NAME in there:
        return (
            "a part of a data set that was packed from another source, or with other options, or whose source has "
            "changed since; pack into another folder, or replace it (--overwrite)"
        )
    manifest = _manifest_in(out)
    if manifest and manifest.format_version < FORMAT_VERSION:
        return (
            "a data set that an earlier version of dist-seg packed, which is not packed on; use it as it is, add what "
            "is new (--append), or pack everything anew (--overwrite)"
        )
    return (
        "a data set that was packed from another source, or with other options, or whose source has changed since; "
        "pack into another folder, add what is new (--append), or replace it (--overwrite)"
    )


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


def refuse_indexed(out: Path) -> None:
    """Raises `DataError` where the shards were written by others and indexed: nothing is written over or between."""
    try:
        manifest = parse_manifest((out / MANIFEST_NAME).read_bytes(), MANIFEST_NAME)
    except (OSError, DataError):
        return
    if any(shard.indexed for split in manifest.splits.values() for shard in split.shards):
        raise DataError(
            f"{out}: holds tars that others wrote, with an index; pack into a folder of its own, and merge the two"
        )


def _manifest_in(out: Path) -> Manifest | None:
    try:
        return parse_manifest((out / MANIFEST_NAME).read_bytes(), MANIFEST_NAME)
    except (OSError, DataError):
        return None


def _own_shards(out: Path) -> set[str] | None:
    """The shards that packing wrote or was about to write, by the records it left; None where it left none.

    Names alone prove nothing: other tools, too, write `train-000000.tar`.
    """
    names = {record.info.name for record in read_records(out / RECORD_NAME)}
    written = _names_written(out)
    names |= {record.info.name for record in _unfinished_records(out)} | (written or set())
    try:
        manifest = parse_manifest((out / MANIFEST_NAME).read_bytes(), MANIFEST_NAME)
    except (FileNotFoundError, DataError):
        is_ours = bool(names) or written is not None or _holds_part(out)
    else:
        is_ours = True
        names |= {shard.name for split in manifest.splits.values() for shard in split.shards}
    return {name for name in names if Path(name).name == name} if is_ours else None


def _holds_part(out: Path) -> bool:
    try:
        read_part(out)
    except DataError:
        return False
    return True


def _names_written(out: Path) -> set[str] | None:
    try:
        names = json.loads((out / UNFINISHED_NAME / _NAMES_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    return set(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _is_hidden(name: str) -> bool:
    """Whether a file in the folder of what is not finished is one that packing writes there."""
    return name == _NAMES_NAME or name.endswith(".tar.json") or _WAITING_NAME.fullmatch(name) is not None


def _files_of(shards: Iterable[str]) -> set[str]:
    stems = [name.removesuffix(".tar") for name in shards]
    return {f"{stem}.{suffix}" for stem in stems for suffix in ("tar", "idx", "samples")}


def _refuse_foreign(out: Path, own: set[str] | None, planned: set[str]) -> None:
    """Where nothing of ours lies every file is another's; elsewhere those that packing would write over."""
    found = {path.name for path in out.iterdir() if not (_is_passed_over(path.name) or _is_part(path))}
    foreign = sorted(found if own is None else found & (_files_of(planned) - _files_of(own)))
    if foreign:
        raise DataError(
            f"{out}: holds files that were not packed here ({foreign[0]}{', ...' if len(foreign) > 1 else ''}); "
            "give a new or empty folder"
        )


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or PARTIAL_MARK in name


def _is_part(path: Path) -> bool:
    """A folder beside the shards in which a part is packed, or was."""
    return FOLDER_NAME.fullmatch(path.name) is not None and path.is_dir()


def _clear(out: Path, *, own: set[str], planned: set[str]) -> None:
    """Remove halves of our files, and our shards that no longer are part of the plan."""
    files = _files_of(own) | {RECORD_NAME, *_DOCUMENTS}
    for path in [*out.iterdir(), *(out / UNFINISHED_NAME).iterdir()]:
        name, mark, _ = path.name.partition(PARTIAL_MARK)
        if mark and (name in files if path.parent == out else _is_hidden(name)):
            path.unlink(missing_ok=True)
    for shard in own - planned:
        for file in _files_of([shard]):
            (out / file).unlink(missing_ok=True)
        _record_path(out, shard).unlink(missing_ok=True)


def _record_path(out: Path, shard: str) -> Path:
    return out / UNFINISHED_NAME / f"{shard}.json"


def _unfinished_records(out: Path) -> list[PackedShard]:
    return [record for path in sorted((out / UNFINISHED_NAME).glob("*.json")) for record in read_records(path)]


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """One process that writes to a folder, where the system has file locks. Held by the open file: a crash frees it."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    path = out / _LOCK_NAME
    while True:
        try:
            file = path.open("w")
        except OSError as error:
            raise DataError(f"{out}: cannot be written to: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise DataError(f"{out}: is being packed into by another process") from error
        except OSError:  # a file system without locks
            break
        if _is_at(file, path):
            break
        file.close()  # its last holder removed it between our opening and locking it: the lock is no longer there
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
