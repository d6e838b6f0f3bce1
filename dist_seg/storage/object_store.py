"""Objects by name in a local folder or an object store: shards, manifests and checkpoints are read through this.

Both implementations can be pickled, used from several threads and inherited by a fork: the copy opens its own files and
connections.
"""

import errno
import itertools
import logging
import os
import random
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

from dist_seg.config.checks import WRITABLE_STORES
from dist_seg.errors import DataError, MissingObjectError, StorageError, UnreachableError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

_log = logging.getLogger(__name__)

_S3_HINT = (
    "write s3://BUCKET/FOLDER, with AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set "
    "(AWS_SKIP_SIGNATURE=true for a public bucket; AWS_ENDPOINT for a store that is not Amazon's)"
)
_GS_HINT = "write gs://BUCKET/FOLDER, with GOOGLE_SERVICE_ACCOUNT set to a key file, or a gcloud login"
_AZ_HINT = "write az://CONTAINER/FOLDER, with AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY set"
_HTTP_HINT = "write https://HOST/FOLDER"
_HINTS = {
    "s3": _S3_HINT,
    "s3a": _S3_HINT,
    "gs": _GS_HINT,
    "az": _AZ_HINT,
    "abfs": _AZ_HINT,
    "abfss": _AZ_HINT,
    "http": _HTTP_HINT,
    "https": _HTTP_HINT,
}
"""How to write the URL of every remote scheme, and what opening it needs."""
_MAX_OPEN_FILES = 64
_BODY_ERROR = "response body"
"""In obstore's message for a response that broke off in its body; it has no exception class for that."""
# Large objects are uploaded in pieces of this size, each with its own retries, and this many at once.
_UPLOAD_PIECE_BYTES = 16 * 2**20
_UPLOADS_AT_ONCE = 4
_NOT_WRITTEN = "cannot be written"
RETRY_S = 180.0
"""How long temporary faults are retried by default."""
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 10.0
_REFUSED = re.compile(r"status code: 4(?!08|29)")
_ENDLESS = 1_000_000
"""Most retries: never reached, as `retry_s` ends them first."""
# Faults of a disk or a network file system that may pass. Others (no permission, a folder) stay.
_TEMPORARY_ERRORS = frozenset({errno.EIO, errno.ESTALE, errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT, errno.EBUSY})


class Storage(Protocol):
    """Objects under one root, by names relative to it.

    Every method raises `MissingObjectError` for a missing object, `StorageError` for one that cannot be read, and
    `UnreachableError` once the time for retries is over. Each names the object.
    """

    @property
    def url(self) -> str:
        """The root, for messages and for opening it again."""
        ...

    def read(self, name: str) -> bytes:
        """The whole object."""
        ...

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises `DataError` if the object ends earlier."""
        ...

    def exists(self, name: str) -> bool: ...

    def size(self, name: str) -> int:
        """In bytes."""
        ...

    def modified(self, name: str) -> float:
        """When the object was last written, in Unix time."""
        ...

    def list(self) -> list[str]:
        """Sorted names of the objects directly under the root. `StorageError` for an HTTP server, which cannot list."""
        ...


def open_storage(root: str | Path, *, retry_s: float = RETRY_S) -> Storage:
    """The storage at a local folder or at an `s3://`, `gs://`, `az://` or `http(s)://` URL.

    retry_s: how long a temporary fault (a server that is down or overloaded, a stale file handle) is retried, with
    growing delays.

    Reads nothing yet. Raises `DataError` for an unknown scheme.
    """
    text = str(root)
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme in _HINTS:
        return ObjectStorage(text, retry_s)
    if scheme == "file":
        return LocalStorage(urlsplit(text).path, retry_s)
    if scheme:
        known = ", ".join(f"{name}://" for name in sorted(_HINTS))
        raise DataError(f"unknown scheme {scheme!r}; give a local folder or one of {known}", where=text)
    return LocalStorage(text, retry_s)


def is_remote(root: str | Path) -> bool:
    """True for the URL of an object store or HTTP server, False for a local folder."""
    return "://" in str(root) and urlsplit(str(root)).scheme != "file"


def open_writable(url: str) -> "ObjectStorage":
    """The object store at a URL, for writing. Raises `DataError` for a URL that cannot be written to."""
    scheme = urlsplit(url).scheme
    if scheme not in WRITABLE_STORES:
        known = ", ".join(f"{name}://" for name in WRITABLE_STORES)
        raise DataError(f"cannot be written to; give a local folder or one of {known}", where=url)
    return ObjectStorage(url, RETRY_S)


class _OpenFile:
    """A file descriptor that is closed once nothing refers to it."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        self._lock = threading.Lock()

    def read_at(self, offset: int, length: int) -> bytes:
        parts = []
        while length > 0 and (part := self._read_once(offset, length)):
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_once(self, offset: int, length: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._fd, length, offset)
        with self._lock:  # Windows
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.read(self._fd, length)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class LocalStorage:
    """A local folder. Ranges are read with `pread`; the last `_MAX_OPEN_FILES` files stay open."""

    def __init__(self, root: str | Path, retry_s: float = RETRY_S) -> None:
        self._root, self._retry_s = Path(root).expanduser().absolute(), retry_s
        self._was_there = False
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._open_files: OrderedDict[str, _OpenFile] = OrderedDict()

    def __getstate__(self) -> tuple[Path, float, bool]:
        return self._root, self._retry_s, self._was_there

    def __setstate__(self, state: tuple[Path, float, bool]) -> None:
        self._root, self._retry_s, self._was_there = state
        self._reset()

    @property
    def url(self) -> str:
        return str(self._root)

    def read(self, name: str) -> bytes:
        return self._retried(name, lambda: self._path(name).read_bytes())

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        data = self._retried(name, lambda: self._file(name).read_at(offset, length))
        if len(data) != length:
            raise DataError(
                f"ends after byte {offset + len(data)}, {length} bytes from {offset} were wanted: the file is "
                "truncated; pack or copy it again",
                where=self._path(name),
            )
        return data

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    def size(self, name: str) -> int:
        return self._retried(name, lambda: self._path(name).stat().st_size)

    def modified(self, name: str) -> float:
        return self._retried(name, lambda: self._path(name).stat().st_mtime)

    def list(self) -> list[str]:
        return self._retried("", lambda: sorted(entry.name for entry in os.scandir(self._root) if entry.is_file()))

    def _path(self, name: str) -> Path:
        return self._root / name

    def _file(self, name: str) -> _OpenFile:
        if self._pid != os.getpid():  # after a fork another thread's lock may be held for ever
            self._reset()
        with self._lock:
            found = self._open_files.pop(name, None) or _OpenFile(self._path(name))
            self._open_files[name] = found
            if len(self._open_files) > _MAX_OPEN_FILES:
                self._open_files.popitem(last=False)
            return found

    def _retried(self, name: str, read: Callable[[], T]) -> T:
        path = self._path(name) if name else self._root
        delays = _delays(self._retry_s)
        while True:
            try:
                result = read()
                self._was_there = True
                return result
            except OSError as error:
                with self._lock:
                    self._open_files.pop(name, None)
                if isinstance(error, FileNotFoundError) and not self._is_away():
                    raise MissingObjectError("no such file", where=path) from error
                if error.errno not in (*_TEMPORARY_ERRORS, errno.ENOENT):
                    raise StorageError(f"cannot be read: {error.strerror or error}", where=path) from error
                delay_s = next(delays, None)
                if delay_s is None:
                    raise UnreachableError(
                        f"cannot be read: {error.strerror or error}; given up after {self._retry_s:g} s", where=path
                    ) from error
                _log.warning("%s: %s; trying again in %.1f s", path, error.strerror or error, delay_s)
            time.sleep(delay_s)

    def _is_away(self) -> bool:
        """Whether the whole folder was there earlier and is gone: a lost mount, not a missing file."""
        return self._was_there and not self._root.is_dir()


class ObjectStorage:
    """An object store or an HTTP server, through obstore, which retries with back-off."""

    def __init__(self, url: str, retry_s: float = RETRY_S) -> None:
        self._url, self._retry_s = url.rstrip("/"), retry_s
        self._store: ObjectStore | None = None
        self._pid = os.getpid()

    def __getstate__(self) -> tuple[str, float]:
        return self._url, self._retry_s

    def __setstate__(self, state: tuple[str, float]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # the whole state

    @property
    def url(self) -> str:
        return self._url

    def read(self, name: str) -> bytes:
        return self._guarded(name, lambda store: bytes(store.get(name).bytes()))

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        data = self._guarded(name, lambda store: bytes(store.get_range(name, start=offset, length=length)))
        if len(data) != length:
            raise DataError(
                f"ends after byte {offset + len(data)}, {length} bytes from {offset} were wanted: the object is "
                "truncated; pack or copy it again",
                where=f"{self._url}/{name}",
            )
        return data

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except MissingObjectError:
            return False
        return True

    def size(self, name: str) -> int:
        return self._guarded(name, lambda store: int(store.head(name)["size"]))

    def modified(self, name: str) -> float:
        return self._guarded(name, lambda store: store.head(name)["last_modified"].timestamp())

    def list(self) -> list[str]:
        if self._url.startswith(("http://", "https://")):
            raise StorageError("an HTTP server does not list its files; read them by name", where=self._url)
        found = self._guarded("", lambda store: store.list_with_delimiter()["objects"])
        return sorted(str(entry["path"]) for entry in found)

    def list_below(self) -> "Sequence[str]":
        """Names of all objects under the root, including those in folders."""
        return self._guarded("", lambda store: [str(entry["path"]) for page in store.list() for entry in page])

    def write(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Uploads an object, whole or not at all. A large one is uploaded in pieces and never held in memory whole."""
        rest = iter(pieces)
        head = _first_bytes(rest, _UPLOAD_PIECE_BYTES)
        if len(head) < _UPLOAD_PIECE_BYTES:
            self._guarded(name, lambda store: store.put(name, head), _NOT_WRITTEN)
            return
        content = itertools.chain([head], rest)
        self._guarded(
            name,
            lambda store: store.put(name, content, chunk_size=_UPLOAD_PIECE_BYTES, max_concurrency=_UPLOADS_AT_ONCE),
            _NOT_WRITTEN,
            again=False,  # The pieces are used up.
        )

    def copy(self, source: str, target: str) -> None:
        """Copies an object inside the store; nothing is downloaded."""
        self._guarded(source, lambda store: store.copy(source, target), "cannot be copied")

    def delete(self, names: Sequence[str]) -> None:
        """Deletes objects; missing ones are ignored."""
        if names:
            self._guarded(names[0], lambda store: store.delete(list(names)), "cannot be deleted")

    def _opened(self) -> "ObjectStore":
        if self._store is None or self._pid != os.getpid():  # the runtime's threads do not survive a fork
            try:
                from obstore.exceptions import BaseError
                from obstore.store import from_url
            except ImportError as error:
                reason = "object stores need obstore: pip install 'dist-seg[storage]'"
                raise StorageError(reason, where=self._url) from error
            plain_http = self._url.startswith("http://")
            try:
                self._store = from_url(
                    self._url,
                    client_options={"allow_http": True} if plain_http else None,
                    retry_config={
                        "max_retries": _ENDLESS,
                        "retry_timeout": timedelta(seconds=self._retry_s),
                        "backoff": {
                            "init_backoff": timedelta(seconds=_FIRST_DELAY_S),
                            "max_backoff": timedelta(seconds=_LONGEST_DELAY_S),
                            "base": 2,
                        },
                    },
                )
            except (BaseError, OSError, ValueError) as error:
                reason = f"cannot be opened: {_first_line(error)}; {self._hint()}"
                raise StorageError(reason, where=self._url) from error
            self._pid = os.getpid()
        return self._store

    def _hint(self) -> str:
        return _HINTS[urlsplit(self._url).scheme]

    def _guarded(
        self, name: str, work: "Callable[[ObjectStore], T]", problem: str = "cannot be read", *, again: bool = True
    ) -> T:
        """Does the work; errors name the object.

        again: repeat it when a response breaks off in its body, which obstore does not repeat itself.
        """
        store = self._opened()
        from obstore.exceptions import BaseError, GenericError, PermissionDeniedError, UnauthenticatedError

        where = f"{self._url}/{name}" if name else self._url
        delays = _delays(self._retry_s)
        while True:
            try:
                return work(store)
            except FileNotFoundError as error:
                raise MissingObjectError("no such object", where=where) from error
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise StorageError(f"{problem}: {_first_line(error)}; {self._hint()}", where=where) from error
            except (BaseError, OSError, ValueError) as error:
                delay_s = next(delays, None) if again and _BODY_ERROR in str(error) else None
                if delay_s is None:
                    # obstore has no exception class for giving up. It does not retry after a response of 4xx.
                    is_refused = _REFUSED.search(_first_line(error)) is not None
                    kind = UnreachableError if isinstance(error, GenericError) and not is_refused else StorageError
                    raise kind(f"{problem}: {_first_line(error)}", where=where) from error
                time.sleep(delay_s)


def _first_bytes(pieces: Iterator[bytes | memoryview], least: int) -> bytes:
    """Takes pieces until there are at least `least` bytes, or no more pieces."""
    taken = bytearray()
    while len(taken) < least and (piece := next(pieces, None)) is not None:
        taken += piece
    return bytes(taken)


def _delays(retry_s: float) -> Iterator[float]:
    """Growing delays in seconds until `retry_s` have passed; random, so that processes do not retry in step."""
    end, longest, rng = time.monotonic() + retry_s, _FIRST_DELAY_S, random.Random()
    while (left := end - time.monotonic()) > 0:
        yield min(left, rng.uniform(longest / 2, longest))
        longest = min(2 * longest, _LONGEST_DELAY_S)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]  # what follows are obstore's own structures
