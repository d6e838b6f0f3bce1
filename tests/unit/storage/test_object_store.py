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
from urllib.parse import parse_qs, urlsplit

import pytest

from dist_seg.errors import DataError, MissingObjectError, StorageError, UnreachableError
from dist_seg.storage import object_store as storage_module
from dist_seg.storage.object_store import LocalStorage, Storage, open_storage

from .range_server import RangeServer, flaky_server


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
        with pytest.raises(MissingObjectError, match=r"c\.bin: no such file"):
            read()


def test_a_range_beyond_the_end_is_an_error_and_not_short(folder: Path) -> None:
    with pytest.raises(DataError, match=r"a\.bin: ends after byte 100, 20 bytes from 90"):
        open_storage(folder).read_range("a.bin", 90, 20)


def test_what_cannot_be_read_is_no_missing_object(folder: Path) -> None:
    with pytest.raises(StorageError, match="below"):
        open_storage(folder).read("below")


def test_passing_faults_are_retried_and_lasting_ones_are_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "_delays", lambda retry_s: iter((0.0, 0.0)))
    faults = [OSError(5, "Input/output error"), OSError(116, "Stale file handle")]
    real = os.pread

    def flaky(descriptor: int, length: int, offset: int) -> bytes:
        if faults:
            raise faults.pop(0)
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", flaky)
    assert open_storage(folder).read_range("a.bin", 1, 1) == b"\1"
    faults += [OSError(5, "Input/output error")] * 3
    with pytest.raises(UnreachableError, match=r"a\.bin: cannot be read: Input/output error; given up after 180 s"):
        open_storage(folder).read_range("a.bin", 1, 1)
    faults[:] = [OSError(13, "Permission denied"), OSError(13, "never asked")]
    with pytest.raises(StorageError, match="Permission denied"):
        open_storage(folder).read_range("a.bin", 1, 1)


def test_a_folder_that_was_there_and_is_away_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, away = open_storage(folder), folder.with_name("away")
    with pytest.raises(MissingObjectError, match="no such file"):
        pickle.loads(pickle.dumps(storage)).read("c.bin")  # missing while the folder is there: nothing to wait for
    storage.read("a.bin")
    folder.rename(away)

    def comes_back(retry_s: float) -> Iterator[float]:
        yield 0.0
        away.rename(folder)
        yield 0.0

    monkeypatch.setattr(storage_module, "_delays", comes_back)
    assert pickle.loads(pickle.dumps(storage)).read("b.bin") == b"b"


def test_a_folder_that_was_never_there_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(MissingObjectError, match="no such file"):
        open_storage(tmp_path / "nowhere", retry_s=3600).read("a.bin")


def test_delays_grow_and_end_with_the_time_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(storage_module.time, "monotonic", lambda: now)
    delays = []
    for delay_s in storage_module._delays(60.0):
        delays.append(delay_s)
        now += delay_s
    assert sum(delays) == pytest.approx(60.0)
    assert 0.05 <= delays[0] <= 0.1 and 5 <= max(delays) <= 10
    assert 10 <= len(delays) <= 30


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


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("az://container/data", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("az://", "write az://CONTAINER/FOLDER"),
        ("s3://", "write s3://BUCKET/FOLDER"),
        ("gs://", "write gs://BUCKET/FOLDER"),
        ("http://", "write https://HOST/FOLDER"),
        ("http://host:99999/x", "write https://HOST/FOLDER"),
    ],
)
def test_a_url_that_cannot_be_opened_is_named_with_what_it_takes(url: str, hint: str) -> None:
    pytest.importorskip("obstore", reason="needs obstore (the storage extra)")
    with pytest.raises(StorageError, match=rf"^{url.rstrip('/')}.*: cannot be opened: .*{hint}"):
        open_storage(url).read("manifest.json")
    with pytest.raises(StorageError, match="cannot be opened"):  # nobody can tell whether it is there
        open_storage(url).exists("manifest.json")


def test_http_reads_ranges_and_names_what_is_missing(served: Storage) -> None:
    assert served.read_range("a.bin", 10, 5) == bytes(range(10, 15))
    assert served.read("b.bin") == b"b"
    assert served.exists("a.bin")
    assert not served.exists("c.bin")
    with pytest.raises(MissingObjectError, match=r"/c\.bin: no such object"):
        served.read("c.bin")


def test_a_server_that_fails_for_a_while_is_asked_again(folder: Path) -> None:
    with flaky_server(folder) as server:
        storage = open_storage(server.url, retry_s=30)
        server.refuse_next(4)
        assert storage.read_range("a.bin", 10, 5) == bytes(range(10, 15))
        assert server.refused == 4


def test_a_server_that_keeps_failing_is_given_up_with_the_objects_name(folder: Path) -> None:
    with flaky_server(folder) as server:
        storage = open_storage(server.url, retry_s=0.5)
        server.refuse_next(1_000_000)
        with pytest.raises(UnreachableError, match=r"/a\.bin: cannot be read: .*503") as raised:
            storage.read("a.bin")
        assert (raised.value.exit_code, server.refused >= 1) == (1, True)


def test_a_server_that_is_gone_is_given_up_with_the_objects_name(folder: Path) -> None:
    with flaky_server(folder) as server:
        storage = pickle.loads(pickle.dumps(open_storage(server.url, retry_s=0.5)))
    with pytest.raises(UnreachableError, match=r"/a\.bin: cannot be read"):
        storage.read_range("a.bin", 0, 1)


def test_an_http_server_is_not_listed(served: Storage) -> None:
    with pytest.raises(StorageError, match="does not list"):
        served.list()


class S3Stub(RangeServer):
    """A bucket whose objects are the files of a folder: ListObjectsV2, two keys a page, HEAD and GET with ranges."""

    def do_GET(self) -> None:  # noqa: N802  # the name that the base class calls
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" not in query:
            super().do_GET()
            return
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        root = Path(self.directory) / "bucket"
        keys = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        keys = [key for key in keys if key.startswith(prefix)]
        folders = sorted({prefix + k[len(prefix) :].split("/")[0] + "/" for k in keys if "/" in k[len(prefix) :]})
        if delimiter:
            keys = [key for key in keys if "/" not in key[len(prefix) :]]
        start = int(query.get("continuation-token", ["0"])[0])
        more = start + 2 < len(keys)
        entries = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>1</ETag>"
            f"<Size>{(root / key).stat().st_size}</Size></Contents>"
            for key in keys[start : start + 2]
        )
        token = f"<NextContinuationToken>{start + 2}</NextContinuationToken>" if more else ""
        below = "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in folders)
        body = (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}"
            f"{below if delimiter else ''}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder `s3://bucket/data`; beside it in the bucket lie others."""
    pytest.importorskip("obstore", reason="needs obstore (the storage extra)")
    for name in ("data/a.bin", "data/b.bin", "data/c.bin", "data/below/d.bin", "data2/e.bin", "f.bin"):
        path = tmp_path / "bucket" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    handler = functools.partial(S3Stub, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield tmp_path / "bucket" / "data"
        server.shutdown()
        thread.join()


class TestS3:
    def test_lists_what_lies_directly_under_the_root_by_its_name_there(self, bucket: Path) -> None:
        assert open_storage("s3://bucket/data").list() == ["a.bin", "b.bin", "c.bin"]
        assert open_storage("s3://bucket/data/").list() == ["a.bin", "b.bin", "c.bin"]
        assert open_storage("s3://bucket").list() == ["f.bin"]

    def test_reads_objects_and_ranges_under_the_root(self, bucket: Path) -> None:
        storage = open_storage("s3://bucket/data")
        assert storage.read("b.bin") == b"data/b.bin"
        assert storage.read("below/d.bin") == b"data/below/d.bin"
        assert storage.read_range("b.bin", 5, 3) == b"b.b"
        assert storage.size("b.bin") == 10

    def test_a_missing_object_is_named(self, bucket: Path) -> None:
        storage = open_storage("s3://bucket/data")
        assert not storage.exists("x.bin")
        with pytest.raises(MissingObjectError, match=r"s3://bucket/data/x\.bin: no such object"):
            storage.read("x.bin")

    def test_a_range_beyond_the_end_is_an_error_and_not_short(self, bucket: Path) -> None:
        with pytest.raises(DataError, match=r"b\.bin: ends after byte 10, 20 bytes from 5"):
            open_storage("s3://bucket/data").read_range("b.bin", 5, 20)

    def test_a_pickled_storage_reads_the_same(self, bucket: Path) -> None:
        storage = open_storage("s3://bucket/data")
        storage.size("a.bin")
        assert pickle.loads(pickle.dumps(storage)).read("a.bin") == b"data/a.bin"
