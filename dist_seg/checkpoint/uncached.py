"""Writing past the page cache, where the system can.

A checkpoint is read again only after a failure. Through the cache its bytes would be copied once more by the cores that
train, and would push the training's data out of memory.
"""

import errno
import mmap
import os
from collections.abc import Iterable

import numpy as np

_ALIGNMENT = 4096
"""Of memory, place in the file and length, as O_DIRECT wants them: no usual device asks for more."""
_BUFFER_BYTES = 4 * 2**20
"""Written at once: enough for a disk's full speed, little enough to be still in the processor's cache when copied."""


def write_uncached(descriptor: int, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
    """Writes the pieces one after the other, from the place where the file is; through the cache where there is no way
    past it. Raises OSError."""
    if not _set_direct(descriptor, True):
        for piece in pieces:
            _write(descriptor, memoryview(piece))
        return
    buffer = np.frombuffer(mmap.mmap(-1, _BUFFER_BYTES), np.uint8)  # Begins at a page, as memory of numpy's need not.
    held = 0
    for piece in pieces:
        rest = np.frombuffer(piece, np.uint8)
        while rest.size:
            taken = min(rest.size, _BUFFER_BYTES - held)
            np.copyto(buffer[held : held + taken], rest[:taken])  # Without the interpreter's lock.
            held, rest = held + taken, rest[taken:]
            if held == _BUFFER_BYTES:
                _write(descriptor, buffer.data)
                held = 0
    whole = held // _ALIGNMENT * _ALIGNMENT
    _write(descriptor, buffer.data[:whole])
    _set_direct(descriptor, False)
    _write(descriptor, buffer.data[whole:held])


def _write(descriptor: int, content: memoryview) -> None:
    written = 0
    while written < len(content):
        try:
            written += os.write(descriptor, content[written:])
        except OSError as error:
            # A file system may take the flag and refuse the write, or a part of it that was left over.
            if error.errno != errno.EINVAL or not _set_direct(descriptor, False):
                raise


def _set_direct(descriptor: int, on: bool) -> bool:
    """Whether the file took over the wish; False as well where it was as wished already."""
    flag = getattr(os, "O_DIRECT", 0)
    if not flag:
        return False
    import fcntl  # Not on Windows, which has no such flag either.

    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    wished = flags | flag if on else flags & ~flag
    if wished == flags:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, wished)
    except OSError:
        return False
    return True
