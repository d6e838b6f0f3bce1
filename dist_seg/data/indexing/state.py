"""The files that indexing writes: two index files per tar, first staged in `.index`, and records for later runs."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dist_seg.data.codecs.class_ids import MAX_CLASSES
from dist_seg.data.indexing.tar import TarContents
from dist_seg.data.packing.own_files import file_sha256
from dist_seg.data.packing.records import PackedShard, read_records, records_text
from dist_seg.data.shards.counts import Counts
from dist_seg.data.shards.manifest import Manifest
from dist_seg.data.shards.names import INDEX_RECORD_NAME, MANIFEST_NAME
from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.data.shards.writer import dali_index
from dist_seg.errors import DataError, StorageError
from dist_seg.storage.files import PARTIAL_MARK, atomic_write, path_errors

_UNFINISHED_NAME = ".index"
_HIDDEN = re.compile(rf"[0-9a-f]{{24}}\.(idx|samples|json)($|{re.escape(PARTIAL_MARK)})")
"""Files of ours in that folder, whole or partly written."""


@dataclass(frozen=True, kw_only=True)
class IndexedTar:
    """A tar that another tool wrote, and the paths of its index files."""

    path: Path
    name: str
    """Path below the folder, with forward slashes."""
    split: str
    fingerprint: str

    @property
    def beside(self) -> tuple[Path, Path]:
        """DALI's index and our sidecar."""
        return self.path.with_suffix(".idx"), self.path.with_suffix(".samples")

    def hidden(self, root: Path, suffix: str) -> Path:
        """A file for the tar in the folder `.index`."""
        return root / _UNFINISHED_NAME / f"{hashlib.sha256(self.name.encode()).hexdigest()[:24]}.{suffix}"

    def staged(self, root: Path) -> tuple[Path, Path]:
        """Where DALI's index and the sidecar wait until all tars have been read."""
        return self.hidden(root, "idx"), self.hidden(root, "samples")


@contextmanager
def unfinished_folder(root: Path) -> Iterator[None]:
    """Creates the folder `.index`, and removes it at the end if it is empty."""
    folder = root / _UNFINISHED_NAME
    with path_errors(folder, kind=DataError):
        folder.mkdir(exist_ok=True)
        for name in (INDEX_RECORD_NAME, MANIFEST_NAME):  # partly written by an interrupted run
            for path in root.glob(f"{name}{PARTIAL_MARK}*"):
                path.unlink()
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            folder.rmdir()


def unfinished_records(root: Path) -> list[PackedShard]:
    """Records of the tars that an interrupted run has read."""
    return [record for path in (root / _UNFINISHED_NAME).glob("*.json") for record in read_records(path).shards]


def stage(root: Path, tar: IndexedTar, contents: TarContents, earlier: Sequence[PackedShard]) -> tuple[str, str]:
    """Write DALI's index and the sidecar to their staging paths. Returns the sha256 of both.

    An index by DALI's own tool beside the tar is kept. earlier: all records of the tar; files with one of their hashes
    may be written over. The sidecar stores for every mask value which samples hold it; `settle` cuts that to the
    classes. Raises `DataError` if a file of somebody else is in the way.
    """
    ours = (dali_index(contents.entries), Sidecar.of(contents.entries, num_classes=MAX_CLASSES).to_bytes())
    known = (
        {record.info.index_sha256 for record in earlier},
        {record.info.sidecar_sha256 for record in earlier},
    )
    hashes = []
    for path, staged, data, were in zip(tar.beside, tar.staged(root), ours, known, strict=True):
        there = path.read_bytes() if path.is_file() else data
        sha256 = hashlib.sha256(there).hexdigest()
        is_ours = there == data or sha256 in were or (path.suffix == ".samples" and _is_sidecar(there))
        if not is_ours:
            if path.suffix != ".idx" or there.count(b"\n") != data.count(b"\n") or not there.startswith(b"v1."):
                raise DataError(
                    f"{path}: dist-seg did not write it, and it is not the index of {tar.path}; move it away"
                )
            hashes.append(sha256)
            continue
        with atomic_write(staged) as file:
            file.write(data)
        hashes.append(hashlib.sha256(data).hexdigest())
    return hashes[0], hashes[1]


def _is_sidecar(data: bytes) -> bool:
    try:
        Sidecar.parse(data)
    except DataError:
        return False
    return True


def settle(root: Path, tar: IndexedTar, record: PackedShard, num_classes: int) -> PackedShard:
    """The record with a sidecar cut to this number of classes, which is staged unless it is there already."""
    if not record.info.samples:
        return record
    sidecar = sidecar_of(root, tar, record).with_classes(num_classes)
    data = sidecar.to_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != record.info.sidecar_sha256:
        with atomic_write(tar.staged(root)[1]) as file:
            file.write(data)
    info = replace(record.info, sidecar_sha256=sha256, class_samples=Counts(sidecar.class_samples))
    return replace(record, info=info)


def sidecar_of(root: Path, tar: IndexedTar, record: PackedShard) -> Sidecar:
    """The tar's sidecar, staged or beside the tar."""
    staged, beside = tar.staged(root)[1], tar.beside[1]
    path = staged if file_sha256(staged) == record.info.sidecar_sha256 else beside
    return Sidecar.parse(path.read_bytes(), str(path))


def place(root: Path, tars: Sequence[IndexedTar], records: Sequence[PackedShard]) -> None:
    """Move staged files beside the tars. An old manifest would not match them, so it is removed first."""
    for tar, record in zip(tars, records, strict=True):
        hashes = (record.info.index_sha256, record.info.sidecar_sha256)
        for beside, staged, sha256 in zip(tar.beside, tar.staged(root), hashes, strict=True):
            if file_sha256(staged) == sha256:
                if file_sha256(beside) != sha256:
                    (root / MANIFEST_NAME).unlink(missing_ok=True)
                with path_errors(beside, kind=StorageError):
                    staged.replace(beside)


def finish(root: Path, earlier: Sequence[PackedShard], records: Sequence[PackedShard], manifest: Manifest) -> None:
    """Write records and manifest, and remove the index files of tars that are gone."""
    with atomic_write(root / INDEX_RECORD_NAME) as file:
        file.write(records_text(records))
    with atomic_write(root / MANIFEST_NAME) as file:
        file.write(manifest.to_json().encode())
    for path in (root / _UNFINISHED_NAME).iterdir():
        if _HIDDEN.match(path.name):
            path.unlink()
    names = {record.info.name for record in records}
    for record in earlier:  # of tars that are gone
        info = record.info
        for name, sha256 in ((info.index_name, info.index_sha256), (info.sidecar_name, info.sidecar_sha256)):
            if info.name not in names and file_sha256(root / name) == sha256:
                (root / name).unlink()
