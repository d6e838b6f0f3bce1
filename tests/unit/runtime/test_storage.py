"""Reading objects by name, from a folder and over HTTP."""

import functools
import http.server
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dist_seg.errors import DataError
from dist_seg.runtime import storage as storage_module
from dist_seg.runtime.storage import LocalStorage, Storage, StorageError, open_storage

from .range_server import RangeServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.bin").write_bytes(bytes(range(100)))
    (tmp_path / "b.bin").write_bytes(b"b")
    (tmp_path / "below").mkdir()
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[Storage]:
    pytest.importorskip("obstore", reason="needs obstore (the storage extra)")
    handler = functools.partial(RangeServer, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield open_storage(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def test_reads_whole_objects_and_ranges(folder: Path) -> None:
    storage = open_storage(folder)
    assert storage.read("a.bin") == bytes(range(100))
    assert storage.read_range("a.bin", 90, 10) == bytes(range(90, 100))
    assert storage.read_range("a.bin", 5, 0) == b""
    assert storage.size("a.bin") == 100


def test_lists_files_without_folders(folder: Path) -> None:
    assert open_storage(str(folder)).list() == ["a.bin", "b.bin"]


def test_a_missing_object_is_named(folder: Path) -> None:
    storage = open_storage(folder)
    assert not storage.exists("c.bin")
    for read in (
        lambda: storage.read("c.bin"),
        lambda: storage.read_range("c.bin", 0, 1),
        lambda: storage.size("c.bin"),
    ):
        with pytest.raises(DataError, match=r"c\.bin: no such file"):
            read()


def test_a_range_beyond_the_end_is_an_error_and_not_short(folder: Path) -> None:
    with pytest.raises(DataError, match=r"a\.bin: ends after byte 100, 20 bytes from 90"):
        open_storage(folder).read_range("a.bin", 90, 20)


def test_what_cannot_be_read_is_no_missing_object(folder: Path) -> None:
    with pytest.raises(StorageError, match="below"):
        open_storage(folder).read("below")


def test_passing_faults_are_retried_and_lasting_ones_are_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "_RETRY_DELAYS_S", (0.0, 0.0))
    faults = [OSError(5, "Input/output error"), OSError(116, "Stale file handle")]
    real = os.pread

    def flaky(descriptor: int, length: int, offset: int) -> bytes:
        if faults:
            raise faults.pop(0)
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", flaky)
    assert open_storage(folder).read_range("a.bin", 1, 1) == b"\1"
    faults += [OSError(5, "Input/output error")] * 3
    with pytest.raises(StorageError, match=r"a\.bin: cannot be read: Input/output error"):
        open_storage(folder).read_range("a.bin", 1, 1)
    faults[:] = [OSError(13, "Permission denied"), OSError(13, "never asked")]
    with pytest.raises(StorageError, match="Permission denied"):
        open_storage(folder).read_range("a.bin", 1, 1)


def test_more_files_than_are_kept_open(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i}").write_bytes(bytes([i]))
    before = len(os.listdir("/proc/self/fd"))
    storage = LocalStorage(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: storage.read_range(str(i % 200), 0, 1), range(2000)))
    assert read == [bytes([i % 200]) for i in range(2000)]
    assert len(os.listdir("/proc/self/fd")) <= before + 64 + 8


def test_a_pickled_storage_reads_the_same(folder: Path) -> None:
    storage = open_storage(folder)
    storage.read_range("a.bin", 0, 1)
    copy = pickle.loads(pickle.dumps(storage))
    assert copy.url == storage.url
    assert copy.read_range("a.bin", 3, 2) == b"\3\4"


def test_reads_after_a_fork_though_a_thread_held_the_lock(folder: Path) -> None:
    storage = LocalStorage(folder)
    storage.read_range("a.bin", 0, 1)
    with storage._lock:  # what another thread may do at the moment of the fork
        child = multiprocessing.get_context("fork").Process(target=storage.read_range, args=("a.bin", 0, 1))
        child.start()
    child.join(20)
    assert child.exitcode == 0


def test_an_unknown_scheme_is_refused_with_those_there_are() -> None:
    with pytest.raises(DataError, match=r"unknown scheme 'ftp'.*s3://"):
        open_storage("ftp://host/data")


def test_http_reads_ranges_and_names_what_is_missing(served: Storage) -> None:
    assert served.read_range("a.bin", 10, 5) == bytes(range(10, 15))
    assert served.read("b.bin") == b"b"
    assert served.exists("a.bin")
    assert not served.exists("c.bin")
    with pytest.raises(DataError, match=r"/c\.bin: no such object"):
        served.read("c.bin")


def test_an_http_server_is_not_listed(served: Storage) -> None:
    with pytest.raises(StorageError, match="does not list"):
        served.list()
