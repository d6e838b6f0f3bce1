"""Where checkpoints are stored: in a local folder or in a folder of an object store, each committed as a whole."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from dist_seg.checkpoint.checksum import Checksum
from dist_seg.checkpoint.uncached import write_uncached
from dist_seg.errors import CheckpointError, DataError, StorageError
from dist_seg.storage.files import path_errors, sync_folder, write_whole
from dist_seg.storage.object_store import ObjectStorage, open_writable

COMMIT_NAME = "checksums.json"
"""Holds the checksum of every other file. Written last: without it there is no checkpoint."""
Files = Iterable[tuple[str, Iterable[bytes | memoryview]]]
"""Names and contents, one file after the other, each content in pieces."""


class CheckpointBackend(Protocol):
    """Stores named groups of files, each committed as a whole, and small texts beside them.

    All failures are raised as CheckpointError or OSError, with the path or object.
    """

    @property
    def url(self) -> str: ...

    def names(self) -> list[str]:
        """Names of the committed groups."""
        ...

    def commit(self, name: str, files: Files) -> None:
        """Writes a group with its checksums; a reader sees all of it or nothing. Replaces a group of the same name."""
        ...

    def remove(self, name: str) -> None:
        """Deletes a group. A half deleted group is no longer listed."""
        ...

    def set_aside(self, names: Sequence[str]) -> str:
        """Moves groups to a folder that `names` does not list, and returns that folder."""
        ...

    def read_text(self, name: str) -> str | None:
        """A small file beside the groups; None if it does not exist."""
        ...

    def write_text(self, name: str, text: str) -> None: ...


class LocalBackend:
    """A local folder. A group is written under a temporary name, synchronised to disk, and committed by one rename."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        return str(self._root)

    def names(self) -> list[str]:
        with path_errors(self._root, "cannot be read", CheckpointError):
            return [entry.name for entry in self._root.iterdir() if entry.is_dir()] if self._root.is_dir() else []

    def commit(self, name: str, files: Files) -> None:
        final, temporary = self._root / name, self._root / f".{name}.tmp-{os.getpid()}"
        self._root.mkdir(parents=True, exist_ok=True)
        self._sweep()
        try:
            temporary.mkdir()
            _write_all(temporary, files)
            if final.exists():  # Renamed first: a half deleted group must not look whole.
                final.rename(self._root / f".deleted-{name}-{os.getpid()}")
            temporary.rename(final)
            sync_folder(self._root)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def remove(self, name: str) -> None:
        # Renamed first: a half deleted folder must not look like a checkpoint.
        doomed = self._root / f".deleted-{name}-{os.getpid()}"
        with path_errors(self._root / name, "cannot be deleted", CheckpointError):
            (self._root / name).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def set_aside(self, names: Sequence[str]) -> str:
        number = next(n for n in range(1, 10**6) if not (self._root / f"superseded-{n}").exists())
        aside = self._root / f"superseded-{number}"
        with path_errors(aside, "later checkpoints cannot be set aside there", CheckpointError):
            aside.mkdir()
            for name in names:
                (self._root / name).rename(aside / name)
        return str(aside)

    def read_text(self, name: str) -> str | None:
        file = self._root / name
        with path_errors(file, "cannot be read", CheckpointError):
            return file.read_text() if file.exists() else None

    def write_text(self, name: str, text: str) -> None:
        write_whole(self._root / name, text, CheckpointError)

    def _sweep(self) -> None:
        for leftover in [*self._root.glob(".step-*.tmp-*"), *self._root.glob(".deleted-*")]:
            shutil.rmtree(leftover, ignore_errors=True)


def _write_all(folder: Path, files: Files) -> None:
    """Writes a group's files and its checksums. All are on disk when it returns."""
    checksums: dict[str, str] = {}
    descriptors: list[int] = []
    try:
        for name, pieces in files:
            descriptors.append(_create(folder / name))
            checksum = Checksum()
            write_uncached(descriptors[-1], _summed(pieces, checksum))
            checksums[name] = checksum.text
        descriptors.append(_create(folder / COMMIT_NAME))
        write_uncached(descriptors[-1], [_checksums_text(checksums)])
        for descriptor in descriptors:  # At the end: the first files are mostly on disk by then.
            os.fsync(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    sync_folder(folder)


def _create(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


def _checksums_text(checksums: dict[str, str]) -> bytes:
    return json.dumps(checksums, indent=1).encode()


class ObjectStoreBackend:
    """A folder of an object store. There is no rename, so the checksums are uploaded last and commit the group."""

    def __init__(self, url: str) -> None:
        self._storage: ObjectStorage = open_writable(url)

    @property
    def url(self) -> str:
        return self._storage.url

    def names(self) -> list[str]:
        return [folder for folder, files in self._groups().items() if COMMIT_NAME in files]

    def commit(self, name: str, files: Files) -> None:
        groups = self._groups()
        unfinished = [group for group in groups if group.startswith("step-") and COMMIT_NAME not in groups[group]]
        checksums: dict[str, str] = {}
        with checkpoint_errors():
            self._storage.delete([f"{group}/{file}" for group in unfinished for file in groups[group]])
            if name in groups:
                self._storage.delete([f"{name}/{COMMIT_NAME}"])
            for file, pieces in files:
                checksum = Checksum()
                self._storage.write(f"{name}/{file}", _summed(pieces, checksum))
                checksums[file] = checksum.text
            self._storage.write(f"{name}/{COMMIT_NAME}", [_checksums_text(checksums)])

    def remove(self, name: str) -> None:
        files = self._groups().get(name, [])
        with checkpoint_errors():
            self._storage.delete([f"{name}/{COMMIT_NAME}"])
            self._storage.delete([f"{name}/{file}" for file in files if file != COMMIT_NAME])

    def set_aside(self, names: Sequence[str]) -> str:
        groups = self._groups()
        taken = {group for group in groups if group.startswith("superseded-")}
        number = next(n for n in range(1, 10**6) if f"superseded-{n}" not in taken)
        with checkpoint_errors():
            for name in names:
                for file in sorted(groups[name], key=lambda file: file == COMMIT_NAME):
                    self._storage.copy(f"{name}/{file}", f"superseded-{number}/{name}/{file}")
                self.remove(name)
        return f"{self.url}/superseded-{number}"

    def read_text(self, name: str) -> str | None:
        with checkpoint_errors():
            return self._storage.read(name).decode() if self._storage.exists(name) else None

    def write_text(self, name: str, text: str) -> None:
        with checkpoint_errors():
            self._storage.write(name, [text.encode()])

    def _groups(self) -> dict[str, list[str]]:
        """Files of every folder directly under the root, by folder name."""
        groups: dict[str, list[str]] = {}
        with checkpoint_errors():
            for path in self._storage.list_below():
                folder, slash, file = path.partition("/")
                if slash:
                    groups.setdefault(folder, []).append(file)
        return groups


def _summed(pieces: Iterable[bytes | memoryview], checksum: Checksum) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        checksum.update(piece)
        yield piece


@contextmanager
def checkpoint_errors() -> Iterator[None]:
    """Turns the storage's errors, which name the object, into CheckpointError."""
    try:
        yield
    except (DataError, StorageError) as error:
        raise CheckpointError(error.reason, where=error.where) from error
