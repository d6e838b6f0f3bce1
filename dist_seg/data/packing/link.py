"""Gives an existing file a second name: by a hard link, or by a copy if the file system has no hard links."""

import enum
import hashlib
import os
from pathlib import Path

from dist_seg.errors import DataError, StorageError
from dist_seg.storage.files import PARTIAL_MARK, atomic_write, path_errors, sync_folder

_CHUNK_BYTES = 4 * 2**20


class Transfer(enum.Enum):
    """How a file got its second name."""

    KEPT = "kept"
    """It had the name already."""
    LINKED = "linked"
    COPIED = "copied"


def link_or_copy(source: Path, target: Path, sha256: str, *, may_change: bool = False) -> Transfer:
    """Create `target` with the contents of `source`, which does not change. It appears whole.

    may_change: somebody else may write to the source, which would also change a link; so it is copied. Copies, and
    other files that are there already, are compared with the sha256; a link is the file itself. Raises `DataError` for
    a source that is missing or damaged.
    """
    real = source.resolve()  # link to the file, not to a symbolic link
    if not real.is_file():
        raise DataError(f"{source}: is missing")
    if target.exists():
        is_kept = not may_change if target.samefile(real) else _has_hash(target, sha256)
        if is_kept:
            return Transfer.KEPT
    return Transfer.LINKED if not may_change and _link(real, target) else _copy(real, target, sha256)


def _link(source: Path, target: Path) -> bool:
    """False if there can be no hard link between the two."""
    partial = target.with_name(f"{target.name}{PARTIAL_MARK}{os.getpid()}")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:  # systems report this differently; if the folder is at fault, the copy will say so
        return False
    try:
        partial.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"{target}: cannot be written: {error.strerror or error}") from error
    return True


def _copy(source: Path, target: Path, sha256: str) -> Transfer:
    digest = hashlib.sha256()
    with atomic_write(target) as file:
        with path_errors(source, "cannot be read", StorageError), source.open("rb") as original:
            while chunk := original.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != sha256:
            raise DataError(f"{source}: differs from what was packed (sha256); pack or copy it again")
    return Transfer.COPIED


def _has_hash(path: Path, sha256: str) -> bool:
    with path_errors(path, "cannot be read", StorageError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
