"""The folder that is packed into, and what packing remembers in it between runs."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dist_seg.data.packing.own_files import (
    DOCUMENTS,
    NAMES_NAME,
    UNFINISHED_NAME,
    WAITING,
    clear,
    file_sha256,
    is_hidden,
    own_shards,
    record_path,
    refuse_foreign,
    unfinished_records,
    waiting_path,
)
from dist_seg.data.packing.parts import PART_NAME
from dist_seg.data.packing.records import PackedShard, RecordedOptions, read_records, record_text, records_text
from dist_seg.data.shards.manifest import FORMAT_VERSION, Manifest
from dist_seg.data.shards.manifest_parsing import parse_manifest
from dist_seg.data.shards.names import MANIFEST_NAME, RECORD_NAME
from dist_seg.errors import DataError, StorageError
from dist_seg.storage.files import PARTIAL_MARK, atomic_write, locked, path_errors


@dataclass(frozen=True, kw_only=True)
class PackState:
    """The folder that is being packed into, and the records of its shards."""

    out: Path
    document: str = MANIFEST_NAME
    """The file that is written last: with it the data set is finished."""
    records: dict[str, PackedShard] = field(default_factory=dict)

    def kept(self, name: str, fingerprint: str, skip_bad: bool) -> PackedShard | None:
        """The shard's record if the shard is there, undamaged, and is what would be written now."""
        record = self.records.get(name)
        is_its = record is not None and fingerprint and record.fingerprint == fingerprint
        if record is None or not is_its or (record.left_out and not skip_bad):
            return None
        info = record.info
        files = ((name, info.sha256), (info.index_name, info.index_sha256), (info.sidecar_name, info.sidecar_sha256))
        if info.samples and not all(file_sha256(self.out / file) == digest for file, digest in files):
            return None
        return record

    def record(self, shard: PackedShard) -> None:
        """Record that the shard is whole. The files of a shard whose samples were all skipped are removed."""
        if not shard.info.samples:
            for name in (shard.info.name, shard.info.index_name, shard.info.sidecar_name):
                (self.out / name).unlink(missing_ok=True)
        with atomic_write(record_path(self.out, shard.info.name)) as file:
            file.write(record_text(shard))

    def finish(self, shards: Sequence[PackedShard] | None, text: str, options: RecordedOptions | None = None) -> None:
        """Write the records, if any, and the document. With the document the data set is finished.

        The old records belong to the old document. New ones are stored under the new document's hash until it is
        written, so that `record_file` finds them after an interruption.
        """
        waiting = waiting_path(self.out, hashlib.sha256(text.encode()).hexdigest())
        if shards is None:
            (self.out / RECORD_NAME).unlink(missing_ok=True)
        else:
            with atomic_write(waiting) as file:
                file.write(records_text(shards, options))
        with atomic_write(self.out / self.document) as file:
            file.write(text.encode())
        if shards is not None:
            with path_errors(self.out / RECORD_NAME, kind=StorageError):
                waiting.replace(self.out / RECORD_NAME)
        for path in (self.out / UNFINISHED_NAME).iterdir():
            if is_hidden(path.name.partition(PARTIAL_MARK)[0]):
                path.unlink()
        with suppress(OSError):  # it holds a file of somebody else
            (self.out / UNFINISHED_NAME).rmdir()


@contextmanager
def open_state(
    out: Path,
    plan: Sequence[tuple[str, str]],
    *,
    document: str = MANIFEST_NAME,
    overwrite: bool = False,
    extends: Manifest | None = None,
    remedy: str | None = None,
) -> Iterator[PackState]:
    """Lock the folder for packing these shards, (name, fingerprint) pairs, and remove what does not belong there.

    document: the file that is written last, `manifest.json` or `part.json`. extends: manifest of the data set that is
    appended to, whose shards are part of the plan. remedy: what the error for a folder with another data set advises;
    None advises the options of `pack`. Raises `DataError` for such a folder (unless `overwrite`), for one that holds
    files of somebody else, and for one that another process is packing into.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be created: {error.strerror}") from error
    with locked(out):
        complete(out)
        finished = read_records(out / RECORD_NAME).shards
        planned, own = {name for name, _ in plan}, own_shards(out)
        refuse_foreign(out, own, planned)
        has_versions = all(fingerprint for _, fingerprint in plan)
        same = has_versions and [(record.info.name, record.fingerprint) for record in finished] == list(plan)
        there = [name for name in DOCUMENTS if (out / name).exists()]
        if extends is not None and manifest_in(out) != extends:
            raise DataError(f"{out}: its manifest has changed in the meantime; run the same command again")
        if there and not (overwrite or extends or (same and there == [document])):
            raise DataError(f"{out}: holds {_occupied(out, there, remedy, has_versions=has_versions)}")
        ours = planned.union(own or ())
        _begin(out, ours)
        for name in there:
            if not extends and (name != document or not same):
                (out / name).unlink()
        unfinished = unfinished_records(out)
        clear(out, own=ours, planned=planned)
        records = {record.info.name: record for record in [*finished, *unfinished]}
        yield PackState(out=out, document=document, records=records)


def _begin(out: Path, names: set[str]) -> None:
    """Write down which shards may be in the folder, before the first one is written."""
    with path_errors(out / UNFINISHED_NAME, kind=DataError):
        (out / UNFINISHED_NAME).mkdir(exist_ok=True)
    with atomic_write(out / UNFINISHED_NAME / NAMES_NAME) as file:
        file.write(json.dumps(sorted(names)).encode())


def _occupied(out: Path, there: Sequence[str], remedy: str | None, *, has_versions: bool) -> str:
    """What the folder holds that must not be written over, and what to do about it."""
    is_part = PART_NAME in there
    append = "" if is_part else "add what is new (--append), "
    if remedy is None:
        manifest = manifest_in(out)
        if manifest and manifest.format_version < FORMAT_VERSION:
            return (
                "a data set that an earlier version of dist-seg packed, which this version cannot resume; use it as it "
                "is, add what is new (--append), or pack everything again (--overwrite)"
            )
        if not has_versions:
            return (
                "data that was packed before, and it is unknown whether the source has changed since: the reader gives "
                "samples without a version (SampleRef.version); let it give one, "
                f"{append and 'compare it and '}{append}or replace what is there (--overwrite)"
            )
        remedy = f"pack into another folder, {append}or replace it (--overwrite)"
    return (
        f"{'a part of ' if is_part else ''}a data set that is not what would be written now: it comes from another "
        f"source or other options, or its source has changed since; {remedy}"
    )


def record_file(out: Path) -> Path:
    """The file with the records of the document in the folder."""
    return _waiting_records(out) or out / RECORD_NAME


def _waiting_records(out: Path) -> Path | None:
    """Records whose document was written before an interruption; None unless there are any."""
    for name in DOCUMENTS:
        path = waiting_path(out, file_sha256(out / name))
        if path.is_file():
            return path
    return None


def complete(out: Path) -> None:
    """Finish what was interrupted between document and records, and remove records whose document was never written."""
    if waiting := _waiting_records(out):
        with path_errors(out / RECORD_NAME, kind=StorageError):
            waiting.replace(out / RECORD_NAME)
    for path in (out / UNFINISHED_NAME).glob(f"{WAITING}*"):
        if is_hidden(path.name):
            path.unlink()


def refuse_indexed(out: Path) -> None:
    """Raises `DataError` if the folder holds indexed tars of somebody else: packing must not write among them."""
    manifest = manifest_in(out)
    if manifest and any(shard.indexed for split in manifest.splits.values() for shard in split.shards):
        raise DataError(
            f"{out}: holds indexed tars that dist-seg did not write; pack into another folder, and merge the two"
        )


def manifest_in(out: Path) -> Manifest | None:
    """The manifest; None if there is none that can be used."""
    try:
        return parse_manifest((out / MANIFEST_NAME).read_bytes(), MANIFEST_NAME)
    except (OSError, DataError):
        return None
