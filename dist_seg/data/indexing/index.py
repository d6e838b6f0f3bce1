"""Indexing WebDataset tars that others wrote: a manifest, and an index beside each tar. The tars stay as they are.

What was indexed is kept while its tar has the same size and time; `index.dist-seg.json` beside the manifest, and
`.index/` while it is not finished, hold what that takes.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dist_seg.data.indexing.rules import classes_of, found_classes, split_of
from dist_seg.data.indexing.state import (
    IndexedTar,
    finish,
    place,
    read_sidecar,
    settle,
    stage,
    unfinished_folder,
    unfinished_records,
)
from dist_seg.data.indexing.tar import Reading, read_tar, tar_files
from dist_seg.data.packing.described import manifest_of
from dist_seg.data.packing.own_files import file_sha256
from dist_seg.data.packing.records import MAX_REFUSALS, PackedShard, Refusal, read_records, records_text
from dist_seg.data.packing.unique_keys import KeysOf, check_unique_keys
from dist_seg.data.raw.classes import ClassTable
from dist_seg.data.shards.manifest import Manifest, ShardInfo
from dist_seg.data.shards.manifest_parsing import check_name, parse_manifest
from dist_seg.data.shards.names import INDEX_NAME, MANIFEST_NAME
from dist_seg.data.shards.sidecar import SUFFIX
from dist_seg.errors import DataError, UserError
from dist_seg.masks.palette import default_palette
from dist_seg.storage.files import atomic_write, locked

_VERSION = 1
_ADVICE = (
    "what cannot be used as it lies has to be unpacked and packed (tar -xf, dist-seg pack folder), or such samples be "
    "left out of the index (--skip-bad)"
)


@dataclass(frozen=True, kw_only=True)
class IndexResult:
    """What indexing did."""

    manifest: Manifest
    skipped: tuple[Refusal, ...]
    indexed_tars: int
    kept_tars: int
    """That had been indexed before and are unchanged."""
    notes: tuple[str, ...]


def index(
    root: Path,
    *,
    classes: ClassTable | None = None,
    ignore_index: int | None = None,
    image_suffixes: Sequence[str] = Reading.image_suffixes,
    mask_suffix: str = Reading.mask_suffix,
    splits: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    max_pixels: int = Reading.max_pixels,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> IndexResult:
    """Make a data set of the WebDataset tars under a folder, of images with masks of class ids.

    classes: None takes every id up to the largest that stands in a mask. splits: patterns of the tars' paths by name;
    None goes by the tars' and folders' names. skip_bad: samples that cannot be used are not listed, and counted.
    `progress` is told bytes and all bytes. Raises `DataError` that names the tar and the sample, and what to do.
    """
    names, ignored = classes_of(classes, ignore_index)
    reading = Reading(
        image_suffixes=tuple(suffix.lower().removeprefix(".") for suffix in image_suffixes),
        mask_suffix=mask_suffix.removeprefix("."),
        num_classes=len(names),
        ignore_index=ignored,
        max_pixels=max_pixels,
    )
    for suffix in (*reading.image_suffixes, reading.mask_suffix):
        if not SUFFIX.fullmatch(suffix):
            raise UserError(f"suffix {suffix!r}: give what follows a key and its dot, such as jpg or seg.png")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    tars = _tars(root, splits, reading)
    with locked(root), unfinished_folder(root):
        earlier = [*_refuse_other_data(root), *unfinished_records(root)]
        done = _read_all(root, tars, reading, earlier, skip_bad, workers, progress)
        records = [record for record, _ in done]
        if not skip_bad:
            _refuse_bad(records)
        notes: list[str] = []
        if not names:
            pixels = [sum(counts) for counts in zip(*(record.class_pixels for record in records), strict=True)]
            names, note = found_classes(root, pixels, ignored)
            notes.append(note)
        records = [settle(root, tar, record, len(names)) for tar, record in zip(tars, records, strict=True)]
        final = [_counted(record, len(names), ignored) for record in records]
        kind = Manifest(
            class_names=names,
            palette=classes.palette if classes else default_palette(len(names)),
            ignore_index=ignored,
        )
        manifest = manifest_of(kind, final)
        _check_keys(root, tars, final)
        place(root, tars, records)
        finish(root, earlier, records, manifest)
    kept = sum(was_kept for _, was_kept in done)
    return IndexResult(
        manifest=manifest,
        skipped=tuple(refusal for record in records for refusal in record.skipped),
        indexed_tars=len(records) - kept,
        kept_tars=kept,
        notes=tuple(notes),
    )


def _read_all(
    root: Path,
    tars: Sequence[IndexedTar],
    reading: Reading,
    earlier: Sequence[PackedShard],
    skip_bad: bool,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> list[tuple[PackedShard, bool]]:
    """The tars' records, and whether each was there."""
    known: dict[str, list[PackedShard]] = {}
    for record in earlier:
        known.setdefault(record.info.name, []).append(record)
    counter = _Progress(sum(tar.path.stat().st_size for tar in tars), progress)
    with ThreadPoolExecutor(max(1, workers)) as pool:  # decoding and hashing let other threads run
        work = [pool.submit(_indexed, root, tar, reading, known.get(tar.name, []), skip_bad, counter) for tar in tars]
        try:
            return [future.result() for future in work]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


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
    """`a-9` before `a-10`."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _refuse_other_data(root: Path) -> list[PackedShard]:
    """What was indexed here before."""
    try:
        manifest = parse_manifest((root / MANIFEST_NAME).read_bytes(), str(root / MANIFEST_NAME))
    except FileNotFoundError:
        return read_records(
            root / INDEX_NAME
        )  # where placing was cut off there is no manifest, and ours lie beside tars
    if not all(shard.indexed for split in manifest.splits.values() for shard in split.shards):
        raise DataError(f"{root}: holds a data set that was packed or merged, with an index of its own")
    return read_records(root / INDEX_NAME)


def _indexed(
    root: Path,
    tar: IndexedTar,
    reading: Reading,
    earlier: Sequence[PackedShard],
    skip_bad: bool,
    progress: "_Progress",
) -> tuple[PackedShard, bool]:
    """The tar's record, with pixels by number for classes, and whether it was there."""
    for record in reversed(earlier):
        if record.fingerprint != tar.fingerprint or (record.skipped and not skip_bad):
            continue
        hashes = (record.info.index_sha256, record.info.sidecar_sha256)
        places = zip(tar.beside, tar.staged(root), hashes, strict=True)
        if not record.info.samples or all(file_sha256(b) == sha or file_sha256(s) == sha for b, s, sha in places):
            progress.add(tar.path.stat().st_size)
            return replace(record, split=tar.split), True
    contents = read_tar(tar.path, str(tar.path), reading, progress.add)
    is_good = skip_bad or not contents.refusals
    hashes = stage(root, tar, contents, earlier) if is_good and contents.entries else ("", "")
    record = PackedShard(
        split=tar.split,
        fingerprint=tar.fingerprint,
        info=ShardInfo(
            name=tar.name,
            bytes=contents.num_bytes,
            sha256=contents.sha256,
            samples=len(contents.entries),
            index_sha256=hashes[0],
            sidecar_sha256=hashes[1],
            indexed=True,
        ),
        class_pixels=contents.id_pixels,
        ignored_pixels=0,
        skipped=contents.refusals,
    )
    if is_good:
        with atomic_write(tar.hidden(root, "json")) as file:
            file.write(records_text([*earlier, record]))  # of any of them an index may lie beside the tar
    return record, False


def _refuse_bad(records: Sequence[PackedShard]) -> None:
    reasons = [refusal.reason for record in records for refusal in record.skipped]
    if reasons:
        more = f"\n  and {len(reasons) - MAX_REFUSALS} more" if len(reasons) > MAX_REFUSALS else ""
        named = "\n  ".join(reasons[:MAX_REFUSALS])
        raise DataError(f"{len(reasons)} sample{'s' * (len(reasons) > 1)} cannot be used:\n  {named}{more}\n{_ADVICE}")


def _counted(record: PackedShard, num_classes: int, ignored: int) -> PackedShard:
    counts = record.class_pixels
    return replace(record, class_pixels=counts[:num_classes], ignored_pixels=counts[ignored])


def _check_keys(root: Path, tars: Sequence[IndexedTar], records: Sequence[PackedShard]) -> None:
    check_unique_keys(
        [
            KeysOf(split=record.split, where=str(tar.path), load=partial(read_sidecar, root, tar, record))
            for tar, record in zip(tars, records, strict=True)
            if record.info.samples
        ],
        "unpack the tars and pack them, each into a folder of its own",
    )


class _Progress:
    """Bytes over all threads."""

    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        self._lock, self._done, self._total, self._tell = threading.Lock(), 0, total, tell

    def add(self, num_bytes: int) -> None:
        if self._tell:
            with self._lock:
                self._done += num_bytes
                self._tell(self._done, self._total)
