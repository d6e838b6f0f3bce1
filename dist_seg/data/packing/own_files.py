"""The files that packing writes into a folder, and how it tells its own from others."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from dist_seg.data.packing.parts import FOLDER_NAME, PART_NAME, read_part
from dist_seg.data.packing.records import PackedShard, read_records
from dist_seg.data.shards.manifest_parsing import parse_manifest
from dist_seg.data.shards.names import MANIFEST_NAME, RECORD_NAME
from dist_seg.errors import DataError
from dist_seg.runtime.documents import decode
from dist_seg.storage.files import PARTIAL_MARK

UNFINISHED_NAME = ".pack"
"""Folder with a record for every finished shard, until the data set is finished."""
NAMES_NAME = "names"
"""File in the folder above that lists the shards packing may write. It is there before the first shard is."""
WAITING = "records-"
"""Prefix of records in the same folder that become `pack.json` once their document, named by its hash, is written."""
_WAITING_NAME = re.compile(rf"{WAITING}[0-9a-f]{{64}}")
_HASH_CHUNK = 2**20
DOCUMENTS = (MANIFEST_NAME, PART_NAME)


def file_sha256(path: Path) -> str | None:
    """In hexadecimal; None for a missing file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def own_shards(out: Path) -> set[str] | None:
    """The shards that packing wrote or was about to write, from the records it left; None if it left no records.

    Names alone prove nothing: other tools also write `train-000000.tar`.
    """
    names = {record.info.name for record in read_records(out / RECORD_NAME).shards}
    written = _names_written(out)
    names |= {record.info.name for record in unfinished_records(out)} | (written or set())
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
        return set(decode((out / UNFINISHED_NAME / NAMES_NAME).read_bytes(), list[str], NAMES_NAME))
    except (OSError, DataError):
        return None


def is_hidden(name: str) -> bool:
    """Whether packing writes a file of this name into the folder `.pack`."""
    return name == NAMES_NAME or name.endswith(".tar.json") or _WAITING_NAME.fullmatch(name) is not None


def _files_of(shards: Iterable[str]) -> set[str]:
    stems = [name.removesuffix(".tar") for name in shards]
    return {f"{stem}.{suffix}" for stem in stems for suffix in ("tar", "idx", "samples")}


def refuse_foreign(out: Path, own: set[str] | None, planned: set[str]) -> None:
    """Raises `DataError` for files of somebody else that packing would write over.

    In a folder that we never packed into, every file belongs to somebody else.
    """
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
    """Whether this is the folder of a part, beside the shards."""
    return FOLDER_NAME.fullmatch(path.name) is not None and path.is_dir()


def clear(out: Path, *, own: set[str], planned: set[str]) -> None:
    """Remove partly written files of ours, and our shards that are no longer in the plan."""
    files = _files_of(own) | {RECORD_NAME, *DOCUMENTS}
    for path in [*out.iterdir(), *(out / UNFINISHED_NAME).iterdir()]:
        name, mark, _ = path.name.partition(PARTIAL_MARK)
        if mark and (name in files if path.parent == out else is_hidden(name)):
            path.unlink(missing_ok=True)
    for shard in own - planned:
        for file in _files_of([shard]):
            (out / file).unlink(missing_ok=True)
        record_path(out, shard).unlink(missing_ok=True)


def waiting_path(out: Path, document_sha256: str | None) -> Path:
    """Path of the records that wait for a document."""
    return out / UNFINISHED_NAME / f"{WAITING}{document_sha256}"


def record_path(out: Path, shard: str) -> Path:
    """Path of a shard's record until the data set is finished."""
    return out / UNFINISHED_NAME / f"{shard}.json"


def unfinished_records(out: Path) -> list[PackedShard]:
    """Records of the shards finished so far."""
    return [record for path in sorted((out / UNFINISHED_NAME).glob("*.json")) for record in read_records(path).shards]
