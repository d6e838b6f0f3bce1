"""What a finished data set says of how it was packed, and whether it may be packed on."""

import json
from pathlib import Path

from dist_seg.data.manifest import MANIFEST_NAME, Manifest
from dist_seg.data.manifest_parsing import parse_manifest, recorded_hash
from dist_seg.data.pack_files import (
    DOCUMENTS,
    RECORD_NAME,
    UNFINISHED_NAME,
    WAITING,
    file_sha256,
    is_hidden,
    waiting_path,
)
from dist_seg.data.pack_records import Options, read_records
from dist_seg.data.pack_shard import PackedShard
from dist_seg.errors import DataError
from dist_seg.storage.files import path_errors
from dist_seg.storage.object_store import StorageError


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
    for name in DOCUMENTS:
        path = waiting_path(out, file_sha256(out / name))
        if path.is_file():
            return path
    return None


def complete(out: Path) -> None:
    """Finish what was cut off between document and records; records whose document was not written are of no use."""
    if waiting := _waiting_records(out):
        with path_errors(out / RECORD_NAME, kind=StorageError):
            waiting.replace(out / RECORD_NAME)
    for path in (out / UNFINISHED_NAME).glob(f"{WAITING}*"):
        if is_hidden(path.name):
            path.unlink()


def refuse_indexed(out: Path) -> None:
    """Raises `DataError` where the shards were written by others and indexed: nothing is written over or between."""
    manifest = manifest_in(out)
    if manifest and any(shard.indexed for split in manifest.splits.values() for shard in split.shards):
        raise DataError(
            f"{out}: holds tars that others wrote, with an index; pack into a folder of its own, and merge the two"
        )


def manifest_in(out: Path) -> Manifest | None:
    """The manifest; None where there is none that can be used."""
    try:
        return parse_manifest((out / MANIFEST_NAME).read_bytes(), MANIFEST_NAME)
    except (OSError, DataError):
        return None
