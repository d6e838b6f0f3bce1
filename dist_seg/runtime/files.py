"""Outputs on a file system: files that appear whole or not at all, locks, and errors that name the path."""

import errno
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_seg.errors import UserError

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
        raise kind(f"{path}: {problem}: {cause}{hint}") from error


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
