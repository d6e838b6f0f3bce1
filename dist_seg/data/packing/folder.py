"""What packing remembers between runs: which shards are whole, and what they were made from."""

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
    """The record of the folder that is being packed into."""

    out: Path
    document: str = MANIFEST_NAME
    """The file with which the data set is there."""
    records: dict[str, PackedShard] = field(default_factory=dict)

    def kept(self, name: str, fingerprint: str, skip_bad: bool) -> PackedShard | None:
        """The shard's record, if it is there, undamaged, and what would be written now."""
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
        """Remember that the shard is whole. One without samples, all having been skipped, is removed."""
        if not shard.info.samples:
            for name in (shard.info.name, shard.info.index_name, shard.info.sidecar_name):
                (self.out / name).unlink(missing_ok=True)
        with atomic_write(record_path(self.out, shard.info.name)) as file:
            file.write(record_text(shard))

    def finish(self, shards: Sequence[PackedShard] | None, text: str, options: RecordedOptions | None = None) -> None:
        """Write the records, if there are any, and the document: with it the data set is there.

        The records of before go with the document of before. So the new ones wait for theirs under its hash, by which
        `record_file` finds them should we be cut off.
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
        with suppress(OSError):  # another's file lies in it
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
    """Take the folder for packing shards of these (name, fingerprint) pairs, and clear what does not belong there.

    document: what is written last, `manifest.json` or `part.json`. extends: of a data set that stays, its manifest; its
    shards are part of the plan. remedy: what to do about a folder that holds another data set, for a command without
    options for it. Raises `DataError` for such a folder (unless `overwrite`), for one that holds files of others, or
    that is being packed into by another process.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made a folder: {error.strerror}") from error
    with locked(out):
        complete(out)
        finished = read_records(out / RECORD_NAME).shards
        planned, own = {name for name, _ in plan}, own_shards(out)
        refuse_foreign(out, own, planned)
        has_versions = all(fingerprint for _, fingerprint in plan)
        same = has_versions and [(record.info.name, record.fingerprint) for record in finished] == list(plan)
        there = [name for name in DOCUMENTS if (out / name).exists()]
        if extends is not None and manifest_in(out) != extends:
            raise DataError(f"{out}: its manifest has changed meanwhile; run the same command again")
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
    """Note which shards may lie in the folder, before the first is written."""
    with path_errors(out / UNFINISHED_NAME, kind=DataError):
        (out / UNFINISHED_NAME).mkdir(exist_ok=True)
    with atomic_write(out / UNFINISHED_NAME / NAMES_NAME) as file:
        file.write(json.dumps(sorted(names)).encode())


def _occupied(out: Path, there: Sequence[str], remedy: str | None, *, has_versions: bool) -> str:
    """What a folder holds in the way of writing another data set, and what to do."""
    is_part = PART_NAME in there
    append = "" if is_part else "add what is new (--append), "
    if remedy is None:
        manifest = manifest_in(out)
        if manifest and manifest.format_version < FORMAT_VERSION:
            return (
                "a data set that an earlier version of dist-seg packed, which is not packed on; use it as it is, add "
                "what is new (--append), or pack everything anew (--overwrite)"
            )
        if not has_versions:
            return (
                "what was packed before, and nothing tells whether that is what would be packed now: the reader gives "
                "samples without a version (SampleRef.version); let it give one, "
                f"{append and 'compare it and '}{append}or replace what is there (--overwrite)"
            )
        remedy = f"pack into another folder, {append}or replace it (--overwrite)"
    return (
        f"{'a part of ' if is_part else ''}a data set that is not what would be written now: it is of another "
        f"source or of other options, or its source has changed since; {remedy}"
    )


def record_file(out: Path) -> Path:
    """Where the records lie of the document that is there."""
    return _waiting_records(out) or out / RECORD_NAME


def _waiting_records(out: Path) -> Path | None:
    """Records whose document was written, and then finishing was cut off."""
    for name in DOCUMENTS:
        path = waiting_path(out, file_sha256(out / name))
        if path.is_file():
            return path
    return None


def complete(out: Path) -> None:
    """Finish what was cut off between document and records; records whose document was not written are of no use."""
    if waiting := _waiting_records(out):
        with path_errors(out / RECORD_NAME, kind=StorageError):
            waiting.replace(out / RECORD_NAME)
    for path in (out / UNFINISHED_NAME).glob(f"{WAITING}*"):
        if is_hidden(path.name):
            path.unlink()


def refuse_indexed(out: Path) -> None:
    """Raises `DataError` where the shards were written by others and indexed: nothing is written over or between."""
    manifest = manifest_in(out)
    if manifest and any(shard.indexed for split in manifest.splits.values() for shard in split.shards):
        raise DataError(
            f"{out}: holds tars that others wrote, with an index; pack into a folder of its own, and merge the two"
        )


def manifest_in(out: Path) -> Manifest | None:
    """The manifest; None where there is none that can be used."""
    try:
        return parse_manifest((out / MANIFEST_NAME).read_bytes(), MANIFEST_NAME)
    except (OSError, DataError):
        return None
