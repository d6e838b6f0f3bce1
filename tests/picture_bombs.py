"""Pictures of some kilobytes that claim, or stand for, gigabytes."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.loader_cases import with_pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def huge_png(width: int, height: int, *, grey: bool = False) -> bytes:
    """A whole PNG of so many pixels by its header, with next to none inside."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if grey else 2, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b"")


def huge_jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose frame header says that it is large."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    frame = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, frame + 5, height, width)
    return bytes(data)


def with_expanding_pixels(png: bytes, size: int) -> bytes:
    """The PNG with pixels that expand to `size` bytes, whatever its header says."""
    return with_pixels(png, _compressed_zeros(size))


def with_expanding_text(png: bytes, kind: str, size: int) -> bytes:
    """The PNG with a chunk before its pixels that expands to `size` bytes. kind: zTXt, iTXt or iCCP."""
    before = b"k\0\1\0\0\0" if kind == "iTXt" else b"k\0\0"
    start = png.index(b"IDAT") - 4
    return png[:start] + _chunk(kind.encode(), before + _compressed_zeros(size)) + png[start:]


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _compressed_zeros(size: int) -> bytes:
    """As zlib packs them; size: whole MiB. A block that is flushed in full can be repeated, which takes no time."""
    packing = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packing.compress(bytes(1 << 20)) + packing.flush(zlib.Z_FULL_FLUSH)
    adler32 = (size % 65521) << 16 | 1
    return b"\x78\x9c" + (size >> 20) * block + b"\x03\x00" + struct.pack(">I", adler32)


@dataclass
class Peak:
    grown_bytes: int = 0
    """How far the memory of the process grew at most, known once the context has ended."""


@contextmanager
def peak_memory_of() -> Iterator[Peak]:
    """Measures what is done inside; skips the test where the system cannot tell."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("needs Linux's account of a process's memory")
    reset.write_text("5")  # the peak is from now on
    before, peak = _status("VmRSS"), Peak()
    yield peak
    peak.grown_bytes = _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])
