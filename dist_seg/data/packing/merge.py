"""Merges packed data: the parts of a data set that many machines packed, or finished data sets of the same classes.

No shard is written again: the merged folder gets hard links to the shards, or copies if the file system has no links.
The merged folders do not change, and may be deleted afterwards. Merged parts are byte for byte the data set that one
machine would have packed.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from dist_seg.data.packing.finished import FinishedShard, read_manifest
from dist_seg.data.packing.folder import manifest_in, open_state
from dist_seg.data.packing.image_kind import ImageKind
from dist_seg.data.packing.link import Transfer, link_or_copy
from dist_seg.data.packing.parts import FOLDER_NAME, PART_NAME, PackedPart, read_part
from dist_seg.data.packing.records import PackedShard, RecordedOptions, parse_records
from dist_seg.data.packing.shard import check_kinds
from dist_seg.data.packing.totals import joined_splits, manifest_of
from dist_seg.data.packing.unique_keys import KeysOf, check_one_split, check_unique_keys
from dist_seg.data.raw.meaning import MEANING, check_same_meaning, recorded_meaning
from dist_seg.data.shards.manifest import FORMAT_VERSION, Manifest, ShardInfo, Split, check_same_kind
from dist_seg.data.shards.names import INDEX_RECORD_NAME, MANIFEST_NAME, RECORD_NAME, shard_name
from dist_seg.errors import DataError, UserError
from dist_seg.runtime.progress_bar import OnProgress
from dist_seg.storage.object_store import open_storage

_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class MergeResult:
    """What merging did."""

    manifest: Manifest
    links: int
    copies: int
    """Shards that were copied. The rest was there already."""
    parts: int
    """0 if finished data sets were merged."""


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """A shard to be merged."""

    folder: Path
    split: str
    info: ShardInfo
    name: str
    """Its name in the merged data set."""

    @property
    def merged(self) -> ShardInfo:
        return replace(self.info, name=self.name)

    def finished(self) -> FinishedShard:
        """Without its record: early versions recorded object sizes from annotated areas, not from the masks."""
        return FinishedShard(storage=open_storage(self.folder), info=self.info)


@dataclass(frozen=True, kw_only=True)
class _Merged:
    shards: Sequence[_Shard]
    manifest: Manifest
    records: Sequence[PackedShard]
    """Records of parts. Merged data sets have none."""
    parts: int
    options: RecordedOptions | None = None
    """Options of parts, which are the same for all."""


def merge(out: Path, folders: Sequence[Path] = (), *, progress: OnProgress | None = None) -> MergeResult:
    """Merge packed parts, or finished data sets, into the new folder `out`. Without folders, merges the parts in `out`.

    Shards of parts keep their names; shards of data sets get new numbers. `progress` counts shards. Raises `DataError`
    for what does not belong together: different classes, colours or options, a part that is missing or given twice, a
    key that is twice in a split, or in different splits of two data sets. Interrupted merging resumes.
    """
    folders = [Path(folder) for folder in folders] or _parts_in(out)
    seen: dict[Path, Path] = {}
    for folder in folders:
        real = folder.resolve()
        if real == out.resolve():
            raise UserError(f"{folder}: is the folder to merge into; give another one")
        if real in seen:
            raise UserError(f"{seen[real]} and {folder} are the same folder; give each once")
        seen[real] = folder
    are_parts = [(folder / PART_NAME).exists() for folder in folders]
    for folder, is_part in zip(folders, are_parts, strict=True):
        if not is_part and not (folder / MANIFEST_NAME).exists():
            raise DataError(f"{folder}: holds neither a packed part ({PART_NAME}) nor a data set ({MANIFEST_NAME})")
    if any(are_parts) and not all(are_parts):
        part, other = folders[are_parts.index(True)], folders[are_parts.index(False)]
        raise UserError(f"{part} is a part of a data set, but {other} is a whole one; merge the parts first")
    merged = _merged_parts(folders) if all(are_parts) else _merged_sets(folders)
    _check_keys(merged)
    links, copies = _transfer(out, merged, progress)
    return MergeResult(manifest=merged.manifest, links=links, copies=copies, parts=merged.parts)


def _check_keys(merged: _Merged) -> None:
    shards = [
        KeysOf(
            split=shard.split,
            where=str(shard.folder / shard.info.name),
            load=shard.finished().sidecar,
            data_set="" if merged.parts else str(shard.folder),
        )
        for shard in merged.shards
    ]
    check_unique_keys(shards, "keep one of the two samples, or pack one of the data sets again with other names")
    check_one_split(
        shards,
        "the same image must not be in training and in validation: divide both data sets in the same way (--val, "
        "--group-by, --split), or, if these are different images, pack one of them again with other names",
    )


def _parts_in(out: Path) -> list[Path]:
    found = sorted(out.iterdir()) if out.is_dir() else []
    parts = [path for path in found if FOLDER_NAME.fullmatch(path.name) and (path / PART_NAME).exists()]
    if not parts:
        raise UserError(f"{out}: holds no finished part (part-I-of-N); give the folders to merge")
    return parts


def _transfer(out: Path, merged: _Merged, progress: OnProgress | None) -> tuple[int, int]:
    """Returns how many shards were linked and how many were copied."""
    text = merged.manifest.to_json()
    total, counts = len(merged.shards), dict.fromkeys(Transfer, 0)
    fingerprints = {record.info.name: record.fingerprint for record in merged.records}
    plan = [(shard.name, fingerprints.get(shard.name, shard.info.sha256)) for shard in merged.shards]
    # If they were merged before, missing and damaged files are replaced.
    is_there = manifest_in(out) == merged.manifest
    with (
        open_state(out, plan, overwrite=is_there, remedy="merge into a new folder") as state,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        transfers = [pool.submit(_transfer_shard, out, shard) for shard in merged.shards]
        try:
            for done, transfer in enumerate(transfers, 1):
                counts[transfer.result()] += 1
                if progress:
                    progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        state.finish(merged.records or None, text, merged.options)
    return counts[Transfer.LINKED], counts[Transfer.COPIED]


def _transfer_shard(out: Path, shard: _Shard) -> Transfer:
    info, merged, path = shard.info, shard.merged, shard.folder / shard.info.name
    if path.is_file() and (size := path.stat().st_size) != info.bytes:
        raise DataError(f"{path}: has {size} bytes, but {info.bytes} were packed; pack or copy it again")
    link_or_copy(shard.folder / info.index_name, out / merged.index_name, info.index_sha256)
    link_or_copy(shard.folder / info.sidecar_name, out / merged.sidecar_name, info.sidecar_sha256)
    is_of_others = (shard.folder / INDEX_RECORD_NAME).exists()
    return link_or_copy(path, out / merged.name, info.sha256, may_change=is_of_others)


def _merged_parts(folders: Sequence[Path]) -> _Merged:
    parts = [(folder, read_part(folder)) for folder in folders]
    _check_parts(parts)
    shards: list[tuple[Path, PackedShard]] = []
    for folder, part in parts:
        try:
            recorded = (folder / RECORD_NAME).read_bytes()
        except OSError as error:
            raise DataError(f"{folder / RECORD_NAME}: cannot be read: {error.strerror or error}") from error
        if hashlib.sha256(recorded).hexdigest() != part.records_sha256:
            raise DataError(f"{folder / RECORD_NAME}: differs from what was packed (sha256); pack the part again")
        path = str(folder / RECORD_NAME)
        shards += [(folder, record) for record in parse_records(recorded, path).shards]
    first = parts[0][1]
    if len(shards) != first.plan_shards:
        raise DataError(f"the parts list {len(shards)} shards, but {first.plan_shards} were planned; pack them again")
    # In the order of the plan: by split, then by number, which may have more digits than the names are padded to.
    shards.sort(key=lambda shard: (shard[1].split, len(shard[1].info.name), shard[1].info.name))
    records = [record for _, record in shards]
    check_kinds(records, ImageKind(array=first.header.image, where=str(folders[0])))
    return _Merged(
        shards=[
            _Shard(folder=folder, split=record.split, info=record.info, name=record.info.name)
            for folder, record in shards
            if record.info.samples
        ],
        manifest=manifest_of(first.header, records),
        records=records,
        parts=len(parts),
        options=first.options,
    )


def _check_parts(parts: Sequence[tuple[Path, PackedPart]]) -> None:
    folder, first = parts[0]
    by_number: dict[int, Path] = {}
    for other, part in parts:
        check_same_kind(folder, first.header, other, part.header)
        check_same_meaning(folder, recorded_meaning(first.options), other, recorded_meaning(part.options))
        for name, value in first.options.items():
            if name != MEANING and part.options.get(name) != value:
                raise DataError(f"{folder} was packed with {name} {value}, {other} with {part.options.get(name)}")
        if part.part.count != first.part.count:
            raise DataError(
                f"{folder} is part {first.part}, but {other} is part {part.part}; the number of parts must be the same"
            )
        if part.plan != first.plan:
            raise DataError(
                f"{folder} and {other} were packed from different lists of {first.plan_samples} and "
                f"{part.plan_samples} samples; every machine must see the same files: pack the parts again"
            )
        if part.contents != first.contents:
            raise DataError(
                f"{folder} and {other} were packed from the same files, but with different meanings of the masks or "
                "different annotations of the images; pack one of the two again (--overwrite) with the classes, "
                "options and annotations of the other parts"
            )
        if part.part.number in by_number:
            raise DataError(f"{by_number[part.part.number]} and {other} are both part {part.part}")
        by_number[part.part.number] = other
    missing = [number for number in range(1, first.part.count + 1) if number not in by_number]
    if missing:
        named = ", ".join(f"{number}/{first.part.count}" for number in missing[:10])
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise DataError(f"missing: part {named}{more}; pack it (--part), and give the folders of all parts")


def _merged_sets(folders: Sequence[Path]) -> _Merged:
    sets = [(folder, read_manifest(folder)) for folder in folders]
    for folder, manifest in sets[1:]:
        check_same_kind(*sets[0], folder, manifest)
    shards: list[_Shard] = []
    splits: dict[str, Split] = {}
    for name in sorted({name for _, manifest in sets for name in manifest.splits}):
        of_split = [(folder, manifest.splits[name]) for folder, manifest in sets if name in manifest.splits]
        infos = [(folder, info) for folder, split in of_split for info in split.shards]
        numbered = [
            _Shard(folder=folder, split=name, info=info, name=shard_name(name, number))
            for number, (folder, info) in enumerate(infos)
        ]
        joined = joined_splits(sets[0][1], [split for _, split in of_split], [shard.finished() for shard in numbered])
        splits[name] = replace(joined, shards=tuple(shard.merged for shard in numbered))
        shards += numbered
    manifest = replace(sets[0][1], format_version=FORMAT_VERSION, splits=splits)
    return _Merged(shards=shards, manifest=manifest, records=(), parts=0)
