"""Appends to a packed data set: writes shards for samples that are not in it yet. The old shards do not change.

The old manifest stays until all new shards are written, so the data set can be used in the meantime.
"""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from dist_seg.data.packing.finished import FinishedData, FinishedShard, read_finished
from dist_seg.data.packing.folder import open_state, refuse_indexed
from dist_seg.data.packing.image_kind import ImageKind
from dist_seg.data.packing.options import Packing, PackOptions
from dist_seg.data.packing.pack import PackResult, result_of
from dist_seg.data.packing.pool import write_jobs
from dist_seg.data.packing.records import PackedShard, RecordedOptions, Refusal, left_out, listed
from dist_seg.data.packing.sample import packed_sample
from dist_seg.data.packing.shard_plan import in_shard_order, plan_shards, samples_by_key, shard_fingerprint
from dist_seg.data.packing.totals import joined_splits, manifest_header, manifest_of
from dist_seg.data.raw.meaning import check_same_meaning, recorded_meaning
from dist_seg.data.raw.source import AnySource, SampleRef, check_source
from dist_seg.data.shards.manifest import FORMAT_VERSION, Manifest, Split, check_same_kind
from dist_seg.data.shards.names import MANIFEST_NAME, next_number
from dist_seg.data.shards.sidecar import crc32c
from dist_seg.errors import DataError, UserError
from dist_seg.runtime.progress_bar import OnProgress

_Known = dict[str, dict[str, SampleRef]]
"""The source's samples by split and by the key that they have in shards."""


@dataclass(frozen=True, kw_only=True)
class _OldShard:
    """A shard of the data set that is appended to."""

    split: str
    shard: FinishedShard
    keys: frozenset[str]
    """Keys that the source also has, in any split. For a large data set these may be few."""

    @property
    def name(self) -> str:
        return self.shard.info.name

    @property
    def record(self) -> PackedShard | None:
        return self.shard.record

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What was left out of the shard."""
        return self.record.skipped if self.record else ()

    @property
    def skipped_keys(self) -> set[str]:
        return {refusal.key for refusal in self.refusals}

    def holds_only(self, known: dict[str, SampleRef]) -> bool:
        """Whether the source has every sample of the shard."""
        return len(self.keys) == self.shard.info.samples and self.keys <= known.keys()

    def fingerprint(self, keys: frozenset[str], known: dict[str, SampleRef], identity: object) -> str:
        """The fingerprint the shard would have if it were packed from these samples of the source."""
        samples = in_shard_order(self.split, {key: known[key] for key in keys})
        return shard_fingerprint(self.name, samples, identity)


def open_for_append(out: Path) -> FinishedData:
    """Read the data set to append to. Raises `UserError` if there is none, `DataError` for indexed tars."""
    if not (out / MANIFEST_NAME).exists():
        raise UserError(f"{out}: holds no finished data set to append to; pack without --append")
    refuse_indexed(out)
    return read_finished(out)


def append(
    source: AnySource, data: FinishedData, options: PackOptions = PackOptions(), *, progress: OnProgress | None = None
) -> PackResult:
    """Add shards for the samples of `source` that `data` lacks, by split and key. `open_for_append` gives the data.

    Samples that only `data` has stay. The result counts new shards. Raises `DataError` for different classes, for masks
    with another meaning, for a sample whose content has changed since it was packed, and for a sample that would be in
    two splits.
    """
    check_source(source)
    out, manifest = data.folder, data.manifest
    packing = Packing(source=source, options=options, images=ImageKind(array=manifest.image, where=str(out)))
    check_same_kind(out, manifest, "what is to be appended", manifest_header(source, manifest.image))
    _check_side(out, data.options, options.max_side)
    check_same_meaning(out, recorded_meaning(data.options), "what is to be appended", getattr(source, "meaning", None))
    known = samples_by_key(source.samples())
    before = _old_shards(data, known)
    _check_splits(out, before, known)
    old = _compared(before, known, packing, data.options)
    new = _new_samples(old, known)
    first = {split: next_number(split, [shard.name for shard in old]) for split in known}
    jobs = plan_shards(new, options.shard_bytes, packing.identity, first) if new else []
    plan = [(shard.name, "") for shard in old] + [(job.name, job.fingerprint) for job in jobs]
    with open_state(out, plan, extends=manifest) as state:
        written = write_jobs(state, jobs, packing, progress)
        added = [written.by_name[job.name] for job in jobs]
        total = _total(data, before, old, added)
        records = [shard.record for shard in old if shard.record and (shard.shard.info.samples or shard.refusals)]
        in_order = sorted([*records, *added], key=lambda record: (record.split, record.info.name))
        state.finish(in_order, total.to_json(), data.options)
    present = sum(map(len, known.values())) - len(new)
    return replace(result_of(total, added, kept=written.kept), present_samples=present)


def _check_side(out: Path, recorded: RecordedOptions | None, max_side: int | None) -> None:
    """Checks that old and new images are shrunk alike. No other option changes what becomes of a sample."""
    if recorded is None or (packed := recorded.get("--max-side")) == max_side:
        return
    if packed is None:
        raise UserError(f"{out}: was packed without --max-side; append without --max-side {max_side}")
    instead = f" instead of --max-side {max_side}" if max_side else ""
    raise UserError(f"{out}: was packed with --max-side {packed}; append with --max-side {packed}{instead}")


def _options_advice(recorded: RecordedOptions | None, options: PackOptions) -> str:
    """Advice for samples that differ, if other options may be the reason."""
    if recorded is None:
        return (
            "if it was packed with options such as --max-side or --max-pixels, give the same options here; otherwise "
        )
    pixels = recorded.get("--max-pixels")
    if pixels != options.max_pixels:
        return f"it was packed with --max-pixels {pixels}, and now it is {options.max_pixels}; give the same value, or "
    return ""


def _old_shards(data: FinishedData, known: _Known) -> list[_OldShard]:
    """The shards in the manifest, and those that have only a record because all their samples were left out."""
    old = []
    for split in data.manifest.splits:
        for shard in data.shards(split):
            there = shard.sidecar().keys()
            keys = frozenset(key for key in there if any(key in samples for samples in known.values()))
            old.append(_OldShard(split=split, shard=shard, keys=keys))
    for record in data.records:
        if not record.info.samples:
            empty = FinishedShard(storage=data.storage, info=record.info, record=record)
            old.append(_OldShard(split=record.split, shard=empty, keys=frozenset()))
    return old


def _check_splits(out: Path, old: Sequence[_OldShard], known: _Known) -> None:
    """Raises `DataError` for a validation sample that would also be in training, or the other way round."""
    keys = {split: set().union(*(o.keys for o in old if o.split == split)) for split in {o.split for o in old}}
    for split, there in keys.items():
        for key in there - known.get(split, {}).keys():
            for other, samples in known.items():
                if key in samples and key not in keys.get(other, ()):
                    raise DataError(
                        f"{samples[key].where}: would go into split {other}, but {out} has {key!r} in split {split}; "
                        "divide the data as before (--val, --group-by), or rename the file"
                    )


def _compared(
    old: Sequence[_OldShard], known: _Known, packing: Packing, recorded: RecordedOptions | None
) -> list[_OldShard]:
    """The shards with records of today's files. Samples that were left out are tried again, so the records drop them.

    For most files, size and modification time show that they have not changed. The others are compared by content.
    """
    identity = packing.identity
    doubtful = [shard for shard in old if not _is_as_packed(shard, known.get(shard.split, {}), identity)]
    with ThreadPoolExecutor(packing.options.workers) as pool:
        found = pool.map(lambda shard: list(_differences(shard, known.get(shard.split, {}), packing)), doubtful)
        reasons = [reason for of_shard in found for reason in of_shard]
    if reasons:
        raise DataError(
            f"{len(reasons)} sample{'s are' if len(reasons) > 1 else ' is'} not what was packed, and old shards must "
            f"not change:{listed(reasons)}\n{_options_advice(recorded, packing.options)}"
            "pack everything again (--overwrite), or rename what has changed, to add it beside the old samples"
        )
    names = {shard.name for shard in doubtful}
    return [
        _with_record_of(shard, known.get(shard.split, {}), identity) if shard.name in names else shard for shard in old
    ]


def _is_as_packed(shard: _OldShard, known: dict[str, SampleRef], identity: object) -> bool:
    everything = shard.keys | shard.skipped_keys
    if known.keys().isdisjoint(everything):
        return True
    if shard.record is None or not (shard.holds_only(known) and shard.skipped_keys <= known.keys()):
        return False
    today = shard.fingerprint(everything, known, identity)
    return bool(today) and shard.record.fingerprint == today


def _with_record_of(shard: _OldShard, known: dict[str, SampleRef], identity: object) -> _OldShard:
    if shard.record is None:
        return shard
    skipped = tuple(refusal for refusal in shard.refusals if refusal.key not in known)
    record = replace(shard.record, skipped=skipped)
    if not skipped and shard.keys and shard.holds_only(known):
        record = replace(record, fingerprint=shard.fingerprint(shard.keys, known, identity))
    return replace(shard, shard=replace(shard.shard, record=record))


def _differences(shard: _OldShard, known: dict[str, SampleRef], packing: Packing) -> Iterator[str]:
    """The samples of the shard that would be packed differently from the source's files today."""
    if not shard.keys:
        return
    sidecar, storage = shard.shard.sidecar(), shard.shard.storage
    for i, key in enumerate(sidecar.keys()):
        sample = known.get(key)
        if sample is None:
            continue
        try:
            members = packed_sample(sample, packing).members.members
        except DataError as error:
            yield str(error)
            continue
        for role, (suffix, data) in zip(sidecar.roles, members, strict=True):
            member = sidecar.member(i, role)
            is_equal = (suffix, len(data), crc32c(data)) == (member.suffix, member.length, member.crc32c)
            if not is_equal and not (
                suffix == member.suffix
                and suffix.endswith("png")
                and _shows_the_same(data, storage.read_range(shard.name, member.offset, member.length))
            ):
                where = sample.where if role == "image" else sample.mask_where or sample.where
                yield f"{where}: differs from {key}.{member.suffix} in {shard.name}"
                break


def _shows_the_same(png: bytes, other: bytes) -> bool:
    """Whether two PNGs have the same pixels: other versions of the library may write them in other bytes."""
    with Image.open(io.BytesIO(png)) as a, Image.open(io.BytesIO(other)) as b:
        return a.mode == b.mode and np.array_equal(np.asarray(a), np.asarray(b))


def _new_samples(old: Sequence[_OldShard], known: _Known) -> list[SampleRef]:
    there: dict[str, set[str]] = {split: set() for split in known}
    for shard in old:
        there.setdefault(shard.split, set()).update(shard.keys, shard.skipped_keys)
    return [ref for split, samples in known.items() for key, ref in samples.items() if key not in there[split]]


def _total(
    data: FinishedData, before: Sequence[_OldShard], old: Sequence[_OldShard], added: Sequence[PackedShard]
) -> Manifest:
    """The manifest with the added shards. `before`: the old shards, with what was left out of them at that time."""
    present = data.manifest.splits
    header = replace(data.manifest, splits={}, format_version=FORMAT_VERSION)
    more = manifest_of(header, [shard for shard in added if shard.split in present], whole=False).splits
    splits = dict(manifest_of(header, [shard for shard in added if shard.split not in present]).splits)
    for name, split in present.items():
        of_split = [shard for shard in old if shard.split == name]
        split = _without_retried(split, [shard for shard in before if shard.split == name], of_split)
        if name in more:
            new = [
                FinishedShard(storage=data.storage, info=shard.info, record=shard)
                for shard in added
                if shard.split == name
            ]
            split = joined_splits(header, [split, more[name]], [*(shard.shard for shard in of_split), *new])
        splits[name] = split
    return replace(header, splits=dict(sorted(splits.items())))


def _without_retried(split: Split, before: Sequence[_OldShard], now: Sequence[_OldShard]) -> Split:
    """The split without the counts of what was left out and is now tried again."""
    (samples, strays), (samples_now, strays_now) = (
        left_out(refusal for shard in shards for refusal in shard.refusals) for shards in (before, now)
    )
    split = replace(split, skipped_samples=split.skipped_samples - (samples - samples_now))
    if split.objects is None:
        return split
    annotations = split.objects.skipped_annotations - (strays - strays_now)
    return replace(split, objects=replace(split.objects, skipped_annotations=annotations))
