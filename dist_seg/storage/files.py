"""Outputs on a file system: files that appear whole or not at all, locks, and errors that name the path."""

import errno
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from dist_seg.errors import DataError, StorageError, UserError

PARTIAL_MARK = ".partial-"
"""In the name of a file that is being written; what carries it after a crash is garbage."""

_log = logging.getLogger(__name__)
_HELD_ELSEWHERE = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS_THERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def path_errors(
    path: Path, problem: str = "cannot be written", kind: type[UserError] = UserError, hint: str = ""
) -> Iterator[None]:
    """Raises an OSError of what is done inside as `kind`, with the path, the problem, the cause and the hint."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        if isinstance(error, FileExistsError | NotADirectoryError):
            cause = "a file lies where a folder is needed"
        raise kind(f"{problem}: {cause}{hint}", where=path) from error


def write_whole(
    path: Path, content: bytes | str | Iterable[bytes | memoryview], kind: type[UserError] = UserError
) -> Path:
    """Writes a file and the folders that it lies in; under its name it appears only when it is whole.

    content: text is written as UTF-8; bytes may come in pieces. Raises `kind`, which names the path, and
    leaves what was there before.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with path_errors(path, kind=kind):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                whole = content.encode() if isinstance(content, str) else content
                file.writelines([whole] if isinstance(whole, bytes) else whole)
                file.flush()
                os.fsync(file.fileno())  # Else a power cut could leave an empty file under the name.
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return path


def sync_folder(folder: Path) -> None:
    """Makes the folder's renames last through a power cut."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def process_lock(path: Path) -> Iterator[bool]:
    """A lock on a file, for as long as the context lasts and the process lives; False where another process has it.

    It is a record lock, which forked workers do not inherit: one that outlives its killed parent must not keep it. The
    system drops it as soon as this process closes the file, however it was opened: nothing else may open it. Where the
    system has no such locks, a warning is logged and nothing is locked.
    """
    if sys.platform == "win32":
        # Nothing is opened there: an open file would keep its folder from being renamed.
        _log.warning("%s: not locked on Windows; see to it that no two processes write to its folder", path)
        yield True
        return
    import fcntl  # Not on Windows.

    with path.open("a") as file:
        held = True
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (*_HELD_ELSEWHERE, *_NO_LOCKS_THERE):
                raise
            held = error.errno in _NO_LOCKS_THERE
            if held:
                _log.warning("%s: its file system knows no locks; see to it that no two processes write there", path)
        yield held


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears under its name only when it is whole and on the disk. `StorageError` names it."""
    partial = path.with_name(f"{path.name}{PARTIAL_MARK}{os.getpid()}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"cannot be written: {error.strerror or error}", where=path) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


_LOCK_NAME = ".pack.lock"


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
