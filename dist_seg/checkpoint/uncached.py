"""Writes files past the page cache, if the system can.

A checkpoint is read again only after a failure. Through the cache, the cores that train would copy its bytes once more,
and they would push the training's data out of memory.
"""

import errno
import mmap
import os
from collections.abc import Iterable

import numpy as np

_ALIGNMENT = 4096
"""O_DIRECT wants memory addresses, file offsets and lengths at multiples of this; usual devices ask for no more."""
_BUFFER_BYTES = 4 * 2**20
"""Bytes per write: enough for the full speed of a disk, and few enough to stay in the processor's cache."""


def write_uncached(descriptor: int, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
    """Writes the pieces one after the other at the file's current offset; through the cache if the file system has no
    other way. Raises OSError."""
    if not _set_direct(descriptor, True):
        for piece in pieces:
            _write(descriptor, memoryview(piece))
        return
    buffer = np.frombuffer(mmap.mmap(-1, _BUFFER_BYTES), np.uint8)  # Aligned to a page, unlike numpy's own memory.
    held = 0
    for piece in pieces:
        rest = np.frombuffer(piece, np.uint8)
        while rest.size:
            taken = min(rest.size, _BUFFER_BYTES - held)
            np.copyto(buffer[held : held + taken], rest[:taken])  # Releases the interpreter's lock.
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
            # A file system may accept the flag and refuse the write, or its unaligned rest.
            if error.errno != errno.EINVAL or not _set_direct(descriptor, False):
                raise


def _set_direct(descriptor: int, on: bool) -> bool:
    """Switches O_DIRECT on or off. Whether that changed anything: False also if it was already so."""
    flag = getattr(os, "O_DIRECT", 0)
    if not flag:
        return False
    import fcntl  # Not on Windows, which has no such flag.

    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    wanted = flags | flag if on else flags & ~flag
    if wanted == flags:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, wanted)
    except OSError:
        return False
    return True
