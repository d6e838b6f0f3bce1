"""One process at a time packs into a folder."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from dist_seg.errors import DataError

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
