"""Indexes WebDataset tars that others wrote: a manifest, and two index files beside each tar. The tars do not change.

An indexed tar is not read again while it has the same size and modification time. The records for this are in
`index.dist-seg.json` beside the manifest, and in `.index/` until the index is finished.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dist_seg.data.indexing.rules import TarLayout, classes_of, found_classes, split_of
from dist_seg.data.indexing.state import (
    IndexedTar,
    finish,
    place,
    settle,
    sidecar_of,
    stage,
    unfinished_folder,
    unfinished_records,
)
from dist_seg.data.indexing.tar import Reading, read_tar, tar_files
from dist_seg.data.packing.own_files import file_sha256
from dist_seg.data.packing.records import PackedShard, Refusal, listed, read_records, records_text
from dist_seg.data.packing.totals import manifest_of
from dist_seg.data.packing.unique_keys import KeysOf, check_unique_keys
from dist_seg.data.shards.manifest import Manifest, ShardInfo
from dist_seg.data.shards.manifest_parsing import check_name, parse_manifest
from dist_seg.data.shards.names import INDEX_RECORD_NAME, MANIFEST_NAME
from dist_seg.data.shards.sidecar import SUFFIX
from dist_seg.errors import DataError, UserError
from dist_seg.masks.palette import default_palette
from dist_seg.runtime.progress_bar import OnProgress, SharedCount
from dist_seg.storage.files import atomic_write, locked

_VERSION = 1
_ADVICE = (
    "unpack and pack what cannot be used in place (tar -xf, dist-seg pack folder), or leave such samples out of the "
    "index (--skip-bad)"
)


@dataclass(frozen=True, kw_only=True)
class IndexResult:
    """What indexing did."""

    manifest: Manifest
    skipped: tuple[Refusal, ...]
    indexed_tars: int
    kept_tars: int
    """Tars that were indexed before and have not changed."""
    notes: tuple[str, ...]


def index_tars(
    root: Path,
    layout: TarLayout = TarLayout(),
    *,
    skip_bad: bool = False,
    max_pixels: int = Reading.max_pixels,
    workers: int = 1,
    progress: OnProgress | None = None,
) -> IndexResult:
    """Make the WebDataset tars under a folder a data set of images with masks of class ids.

    skip_bad: unusable samples are left out and counted. workers: number of threads; each reads one tar at a time.
    `progress` counts bytes. Raises `DataError` that names the tar and the sample, and says what to do.
    """
    names, ignored = classes_of(layout.classes, layout.ignore_index)
    reading = _reading(layout, len(names), ignored, max_pixels)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    tars = _tars(root, layout.splits, reading)
    with locked(root), unfinished_folder(root):
        earlier = [*_refuse_other_data(root), *unfinished_records(root)]
        count = SharedCount(sum(tar.path.stat().st_size for tar in tars), progress)
        indexing = _Indexing(root=root, reading=reading, skip_bad=skip_bad, earlier=earlier, count=count)
        done = indexing.all_tars(tars, workers)
        records = [record for record, _ in done]
        if not skip_bad:
            _refuse_bad(records)
        notes: tuple[str, ...] = ()
        if not names:
            pixels = [sum(counts) for counts in zip(*(record.class_pixels for record in records), strict=True)]
            names, note = found_classes(root, pixels, ignored)
            notes = (note,)
        records = [settle(root, tar, record, len(names)) for tar, record in zip(tars, records, strict=True)]
        palette = layout.classes.palette if layout.classes else default_palette(len(names))
        header = Manifest(class_names=names, palette=palette, ignore_index=ignored)
        manifest = manifest_of(header, [_counted(record, len(names), ignored) for record in records])
        _check_keys(root, tars, records)
        place(root, tars, records)
        finish(root, earlier, records, manifest)
    kept = sum(was_kept for _, was_kept in done)
    return IndexResult(
        manifest=manifest,
        skipped=tuple(refusal for record in records for refusal in record.skipped),
        indexed_tars=len(records) - kept,
        kept_tars=kept,
        notes=notes,
    )


def _reading(layout: TarLayout, num_classes: int, ignore_index: int, max_pixels: int) -> Reading:
    reading = Reading(
        image_suffixes=tuple(suffix.lower().removeprefix(".") for suffix in layout.image_suffixes),
        mask_suffix=layout.mask_suffix.removeprefix("."),
        num_classes=num_classes,
        ignore_index=ignore_index,
        max_pixels=max_pixels,
    )
    for suffix in (*reading.image_suffixes, reading.mask_suffix):
        if not SUFFIX.fullmatch(suffix):
            raise UserError(f"suffix {suffix!r}: give what follows a key and its dot, such as jpg or seg.png")
    return reading


def _tars(root: Path, patterns: Mapping[str, str] | None, reading: Reading) -> list[IndexedTar]:
    paths = sorted(tar_files(root), key=_by_number)
    if not paths:
        raise DataError(f"{root}: holds no .tar")
    tars = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        check_name(name, str(path))
        stat = path.stat()
        text = json.dumps([_VERSION, name, stat.st_size, stat.st_mtime_ns, repr(reading)])
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        tars.append(IndexedTar(path=path, name=name, split=split_of(name, patterns), fingerprint=fingerprint))
    return tars


def _by_number(path: Path) -> list[object]:
    """Sort key that puts `a-9` before `a-10`."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _refuse_other_data(root: Path) -> tuple[PackedShard, ...]:
    """The records of an earlier run. Raises `DataError` if the folder holds another kind of data set."""
    try:
        manifest = parse_manifest((root / MANIFEST_NAME).read_bytes(), str(root / MANIFEST_NAME))
    except FileNotFoundError:
        pass  # an interrupted run may have left index files beside the tars, but no manifest
    else:
        if not all(shard.indexed for split in manifest.splits.values() for shard in split.shards):
            raise DataError(f"{root}: holds a data set that was packed or merged, and is already complete")
    return read_records(root / INDEX_RECORD_NAME).shards


@dataclass(frozen=True, kw_only=True)
class _Indexing:
    """Reads tars that are new or have changed, and keeps the records of the others."""

    root: Path
    reading: Reading
    skip_bad: bool
    earlier: Sequence[PackedShard]
    """Records of earlier runs."""
    count: SharedCount
    """Counts the bytes read."""

    def all_tars(self, tars: Sequence[IndexedTar], workers: int) -> list[tuple[PackedShard, bool]]:
        """The tars' records, and whether each was kept. Pixels are counted by mask value, not yet by class."""
        known: dict[str, list[PackedShard]] = {}
        for record in self.earlier:
            known.setdefault(record.info.name, []).append(record)
        with ThreadPoolExecutor(max(1, workers)) as pool:  # decoding and hashing release the interpreter lock
            work = [pool.submit(self._record, tar, known.get(tar.name, [])) for tar in tars]
            try:
                return [future.result() for future in work]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _record(self, tar: IndexedTar, earlier: Sequence[PackedShard]) -> tuple[PackedShard, bool]:
        for record in reversed(earlier):
            if self._is_kept(tar, record):
                self.count.add(tar.path.stat().st_size)
                return replace(record, split=tar.split), True
        contents = read_tar(tar.path, str(tar.path), self.reading, self.count.add)
        is_good = self.skip_bad or not contents.refusals
        hashes = stage(self.root, tar, contents, earlier) if is_good and contents.entries else ("", "")
        info = ShardInfo(
            name=tar.name,
            bytes=contents.num_bytes,
            sha256=contents.sha256,
            samples=len(contents.entries),
            index_sha256=hashes[0],
            sidecar_sha256=hashes[1],
            indexed=True,
        )
        record = PackedShard(
            split=tar.split,
            fingerprint=tar.fingerprint,
            info=info,
            class_pixels=contents.id_pixels,
            ignored_pixels=0,
            skipped=contents.refusals,
        )
        if is_good:
            with atomic_write(tar.hidden(self.root, "json")) as file:
                file.write(records_text([*earlier, record]))  # index files beside the tar may come from any of them
        return record, False

    def _is_kept(self, tar: IndexedTar, record: PackedShard) -> bool:
        """Whether the record matches the tar, and its index files are beside the tar or staged."""
        if record.fingerprint != tar.fingerprint or (record.skipped and not self.skip_bad):
            return False
        hashes = (record.info.index_sha256, record.info.sidecar_sha256)
        files = zip(tar.beside, tar.staged(self.root), hashes, strict=True)
        return not record.info.samples or all(
            sha256 in (file_sha256(beside), file_sha256(staged)) for beside, staged, sha256 in files
        )


def _refuse_bad(records: Sequence[PackedShard]) -> None:
    reasons = [refusal.reason for record in records for refusal in record.skipped]
    if reasons:
        raise DataError(f"{len(reasons)} sample{'s' * (len(reasons) > 1)} cannot be used:{listed(reasons)}\n{_ADVICE}")


def _counted(record: PackedShard, num_classes: int, ignored: int) -> PackedShard:
    counts = record.class_pixels
    return replace(record, class_pixels=counts[:num_classes], ignored_pixels=counts[ignored])


def _check_keys(root: Path, tars: Sequence[IndexedTar], records: Sequence[PackedShard]) -> None:
    check_unique_keys(
        [
            KeysOf(split=record.split, where=str(tar.path), load=partial(sidecar_of, root, tar, record))
            for tar, record in zip(tars, records, strict=True)
            if record.info.samples
        ],
        "unpack each tar into a folder of its own, and pack the folders",
    )
