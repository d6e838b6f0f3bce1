"""Indexing WebDataset tars that others wrote: a manifest, and an index beside each tar. The tars stay as they are.

What was indexed is kept while its tar has the same size and time; `index.json` beside the manifest, and `.index/` while
it is not finished, hold what that takes.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from dist_seg.data.formats.classes import ClassTable
from dist_seg.data.index_rules import classes_of, found_classes, split_of
from dist_seg.data.index_tar import Reading, TarContents, read_tar, tar_files
from dist_seg.data.manifest import MANIFEST_NAME, Manifest, ShardInfo, check_name, parse_manifest
from dist_seg.data.pack_shard import MAX_REFUSALS, PackedShard, Refusal
from dist_seg.data.pack_state import INDEX_NAME, file_sha256, locked, read_records, records_text
from dist_seg.data.pack_writing import manifest_of
from dist_seg.data.shards import atomic_write, dali_index
from dist_seg.data.sidecar import Sidecar
from dist_seg.data.unique_keys import KeysOf, check_unique_keys
from dist_seg.drawing import default_palette
from dist_seg.errors import DataError

_VERSION = 1
_UNFINISHED_NAME = ".index"
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


@dataclass(frozen=True, kw_only=True)
class _Tar:
    path: Path
    name: str
    """Below the folder, with forward slashes."""
    split: str
    fingerprint: str

    @property
    def beside(self) -> tuple[Path, Path]:
        """DALI's index and ours."""
        return self.path.with_suffix(".idx"), self.path.with_suffix(".samples")


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
        num_classes=len(names) if names else None,
        ignore_index=ignored,
        max_pixels=max_pixels,
    )
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    tars = _tars(root, splits, reading)
    with locked(root):
        earlier = _refuse_other_data(root)
        (root / _UNFINISHED_NAME).mkdir(exist_ok=True)
        known = {record.info.name: record for record in [*earlier, *_unfinished(root)]}
        progress_of = _Progress(sum(tar.path.stat().st_size for tar in tars), progress)
        with ThreadPoolExecutor(max(1, workers)) as pool:  # decoding and hashing let other threads run
            work = [
                pool.submit(_indexed, root, tar, reading, known.get(tar.name), skip_bad, progress_of) for tar in tars
            ]
            try:
                done = [future.result() for future in work]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        records = [record for record, _ in done]
        if not skip_bad:
            _refuse_bad(records)
        notes: list[str] = []
        if not names:
            pixels = [sum(counts) for counts in zip(*(record.class_pixels for record in records), strict=True)]
            names, note = found_classes(root, pixels, ignored)
            notes.append(note)
        final = [_counted(record, len(names), ignored) for record in records]
        kind = Manifest(
            class_names=names,
            palette=classes.palette if classes else default_palette(len(names)),
            ignore_index=ignored,
        )
        manifest = manifest_of(kind, final)
        _check_keys(root, manifest)
        _finish(root, records, manifest)
    kept = sum(was_kept for _, was_kept in done)
    return IndexResult(
        manifest=manifest,
        skipped=tuple(refusal for record in records for refusal in record.skipped),
        indexed_tars=len(records) - kept,
        kept_tars=kept,
        notes=tuple(notes),
    )


def _tars(root: Path, patterns: Mapping[str, str] | None, reading: Reading) -> list[_Tar]:
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
        tars.append(_Tar(path=path, name=name, split=split_of(name, patterns), fingerprint=fingerprint))
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
        return []
    if not all(shard.indexed for split in manifest.splits.values() for shard in split.shards):
        raise DataError(f"{root}: holds a data set that was packed or merged, with an index of its own")
    return read_records(root / INDEX_NAME)


def _record_path(root: Path, name: str) -> Path:
    return root / _UNFINISHED_NAME / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"


def _unfinished(root: Path) -> list[PackedShard]:
    return [record for path in (root / _UNFINISHED_NAME).glob("*.json") for record in read_records(path)]


def _indexed(
    root: Path, tar: _Tar, reading: Reading, earlier: PackedShard | None, skip_bad: bool, progress: "_Progress"
) -> tuple[PackedShard, bool]:
    """The tar's record, with pixels by number for classes, and whether it was there."""
    if earlier and earlier.fingerprint == tar.fingerprint and not (earlier.skipped and not skip_bad):
        expected = (earlier.info.index_sha256, earlier.info.sidecar_sha256)
        if not earlier.info.samples or tuple(map(file_sha256, tar.beside)) == expected:
            progress.add(tar.path.stat().st_size)
            return replace(earlier, split=tar.split), True
    contents = read_tar(tar.path, str(tar.path), reading, progress.add)
    shas = ("", "")
    if contents.entries and (skip_bad or not contents.refusals):
        shas = _write_beside(tar, contents, earlier)
    record = PackedShard(
        split=tar.split,
        fingerprint=tar.fingerprint,
        info=ShardInfo(
            name=tar.name,
            bytes=contents.num_bytes,
            sha256=contents.sha256,
            samples=len(contents.entries),
            index_sha256=shas[0],
            sidecar_sha256=shas[1],
            indexed=True,
        ),
        class_pixels=contents.id_pixels,
        ignored_pixels=0,
        skipped=contents.refusals,
    )
    if shas != ("", ""):
        with atomic_write(_record_path(root, tar.name)) as file:
            file.write(records_text([record]))
    return record, False


def _write_beside(tar: _Tar, contents: TarContents, earlier: PackedShard | None) -> tuple[str, str]:
    """The hashes of what lies beside the tar then. An index that DALI's tool wrote for all samples may stay."""
    ours = (dali_index(contents.entries), Sidecar.of(contents.entries).to_bytes())
    known = (earlier.info.index_sha256, earlier.info.sidecar_sha256) if earlier else ("", "")
    hashes = []
    for path, data, was in zip(tar.beside, ours, known, strict=True):
        there = path.read_bytes() if path.is_file() else None
        sha256 = hashlib.sha256(data).hexdigest()
        if there is None or (path.suffix == ".samples" and _is_sidecar(there)) or file_sha256(path) == was:
            with atomic_write(path) as file:
                file.write(data)
        elif there != data:
            if path.suffix != ".idx" or there.count(b"\n") != data.count(b"\n") or not there.startswith(b"v1."):
                raise DataError(f"{path}: was written by others and is not the index of {tar.path}; move it away")
            sha256 = hashlib.sha256(there).hexdigest()
        hashes.append(sha256)
    return hashes[0], hashes[1]


def _is_sidecar(data: bytes) -> bool:
    try:
        Sidecar.parse(data)
    except DataError:
        return False
    return True


def _refuse_bad(records: Sequence[PackedShard]) -> None:
    reasons = [refusal.reason for record in records for refusal in record.skipped]
    if reasons:
        more = f"\n  and {len(reasons) - MAX_REFUSALS} more" if len(reasons) > MAX_REFUSALS else ""
        named = "\n  ".join(reasons[:MAX_REFUSALS])
        raise DataError(f"{len(reasons)} sample{'s' * (len(reasons) > 1)} cannot be used:\n  {named}{more}\n{_ADVICE}")


def _counted(record: PackedShard, num_classes: int, ignored: int) -> PackedShard:
    counts = record.class_pixels
    return replace(record, class_pixels=counts[:num_classes], ignored_pixels=counts[ignored])


def _check_keys(root: Path, manifest: Manifest) -> None:
    shards = [
        KeysOf(
            split=name,
            where=str(root / shard.name),
            load=lambda path=root / shard.sidecar_name: Sidecar.parse(path.read_bytes(), str(path)),  # type: ignore[misc]
        )
        for name, split in manifest.splits.items()
        for shard in split.shards
    ]
    check_unique_keys(shards, "unpack the tars and pack them, each into a folder of its own")


def _finish(root: Path, records: Sequence[PackedShard], manifest: Manifest) -> None:
    with atomic_write(root / INDEX_NAME) as file:
        file.write(records_text(records))
    with atomic_write(root / MANIFEST_NAME) as file:
        file.write(manifest.to_json().encode())
    for path in (root / _UNFINISHED_NAME).iterdir():
        path.unlink()
    (root / _UNFINISHED_NAME).rmdir()


class _Progress:
    """Bytes over all threads."""

    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        self._lock, self._done, self._total, self._tell = threading.Lock(), 0, total, tell

    def add(self, num_bytes: int) -> None:
        if self._tell:
            with self._lock:
                self._done += num_bytes
                self._tell(self._done, self._total)
