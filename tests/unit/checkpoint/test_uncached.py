"""Files written past the page cache hold what they were given, whatever the lengths and the file system."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from dist_seg.checkpoint import uncached

BUFFER = uncached._BUFFER_BYTES
LENGTHS = [[], [0], [1], [4096], [4095, 2], [10_000, 0, 3], [BUFFER], [BUFFER - 1, 2], [3, 2 * BUFFER + 4096, 5000]]


def written(path: Path, pieces: Sequence[bytes]) -> bytes:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        uncached.write_uncached(descriptor, [memoryview(piece) for piece in pieces])
    finally:
        os.close(descriptor)
    return path.read_bytes()


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("folder", ["disk", "memory"])
def test_pieces_stand_one_after_the_other(
    lengths: list[int], folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pieces = [os.urandom(length) for length in lengths]
    path = tmp_path / "file"
    if folder == "memory":  # Some kernels refuse the flag there.
        path = Path("/dev/shm", f"dist-seg-{os.getpid()}-{len(lengths)}-{sum(lengths)}")
        if not path.parent.is_dir():
            pytest.skip("needs a file system in memory at /dev/shm")
        request.addfinalizer(lambda: path.unlink(missing_ok=True))
    assert written(path, pieces) == b"".join(pieces)


def test_where_the_flag_is_taken_and_the_write_refused_the_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = pytest.importorskip("fcntl", reason="needs file flags, which Windows has not")
    if not hasattr(os, "O_DIRECT"):
        pytest.skip("needs a system with a way past the page cache")
    real, refused = os.write, []

    def write(descriptor: int, content: memoryview) -> int:
        if flags.fcntl(descriptor, flags.F_GETFL) & os.O_DIRECT:
            refused.append(len(content))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    pieces = [os.urandom(BUFFER + 4097), b"end"]
    assert written(tmp_path / "file", pieces) == b"".join(pieces)
    assert refused == [BUFFER]


def test_an_error_of_the_disk_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(descriptor: int, content: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "file", [b"content"])
