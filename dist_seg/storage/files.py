"""Outputs on a file system: files that appear whole or not at all, locks, and errors that name the path."""

import errno
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from dist_seg.errors import DataError, StorageError, UserError

PARTIAL_MARK = ".partial-"
"""In the name of a file that is being written. A file whose name still has it after a crash is garbage."""
_PACK_LOCK_NAME = ".pack.lock"

_log = logging.getLogger(__name__)
_NO_LOCKS_THERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_LOCK_WAIT_S, _LOCK_POLL_S = 0.1, 0.02


@contextmanager
def path_errors(
    path: Path, problem: str = "cannot be written", kind: type[UserError] = UserError, hint: str = ""
) -> Iterator[None]:
    """Turns an OSError raised inside into `kind`, with the path, the problem, the cause and the hint."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        if isinstance(error, FileExistsError | NotADirectoryError):
            cause = "a file lies where a folder is needed"
        raise kind(f"{problem}: {cause}{hint}", where=path) from error


@contextmanager
def atomic_write(path: Path, kind: type[UserError] = StorageError) -> Iterator[BinaryIO]:
    """A file to write to, which appears under its name only when it is whole and on the disk.

    If the body or the disk fails, what was there before stays. Raises `kind`, which names the path, for an OSError.
    """
    partial = path.with_name(f"{path.name}{PARTIAL_MARK}{os.getpid()}")
    with path_errors(path, kind=kind):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # Otherwise a power cut could leave an empty file under the name.
            partial.replace(path)
            sync_folder(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_whole(
    path: Path, content: bytes | str | Iterable[bytes | memoryview], kind: type[UserError] = UserError
) -> Path:
    """Writes a file by `atomic_write`, and the folders that it lies in; returns its path.

    content: text is written as UTF-8; bytes may come in pieces.
    """
    with path_errors(path, kind=kind):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, kind) as file:
        whole = content.encode() if isinstance(content, str) else content
        file.writelines([whole] if isinstance(whole, bytes) else whole)
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
def file_lock(path: Path, *, remove: bool = False) -> Iterator[bool]:
    """Locks a file while the context lasts; yields False if it is locked already.

    A crash frees the lock, even if workers that the process has forked outlive it. On a file system without locks a
    warning is logged and nothing is locked. Raises OSError if the file cannot be opened.

    remove: delete the file at the end.
    """
    from filelock import FileLock, Timeout  # Most commands lock nothing.

    # filelock uses flock, which a forked worker would keep for its dead parent. So it closes the file in every child
    # that Python forks (measured with 4.2).
    lock = FileLock(path, thread_local=False, fallback_to_soft=False, preserve_lock_file=not remove)
    held = False
    try:
        # Not a single attempt: that would also fail when the last holder removes the file between opening and locking.
        lock.acquire(timeout=_LOCK_WAIT_S, poll_interval=_LOCK_POLL_S)
        held = True
    except Timeout:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS_THERE:
            raise
        held = True
        _log.warning("%s: its file system has no locks; make sure that no two processes write to its folder", path)
    try:
        yield held
    finally:
        if held and remove and sys.platform != "win32":  # On Windows filelock removes it, which is possible only later.
            path.unlink(missing_ok=True)  # While it is locked: afterwards it may be another's.
        lock.release()


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps other processes from packing into a folder. Raises DataError if one does, or if it cannot be written to."""
    with ExitStack() as stack:
        try:
            held = stack.enter_context(file_lock(out / _PACK_LOCK_NAME, remove=True))
        except OSError as error:
            raise DataError(f"cannot be written to: {error.strerror or error}", where=out) from error
        if not held:
            raise DataError("is being packed into by another process", where=out)
        yield
