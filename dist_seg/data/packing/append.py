"""Adding to a packed data set: shards for the samples that are not in it yet. The old ones stay as they are.

Until the new shards are whole the manifest is the old one, so that the data set can be used meanwhile.
"""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from dist_seg.data.codecs.npy import ArrayLayout
from dist_seg.data.packing.described import kind_of, manifest_of
from dist_seg.data.packing.folder import open_state, read_finished, read_manifest, read_options, refuse_indexed
from dist_seg.data.packing.image_kind import ImageKind
from dist_seg.data.packing.options import Packing, PackOptions
from dist_seg.data.packing.pack import PackResult, result_of
from dist_seg.data.packing.pool import write_jobs
from dist_seg.data.packing.records import MAX_REFUSALS, PackedShard, RecordedOptions, Refusal, left_out
from dist_seg.data.packing.recount import shard_channels, shard_objects, summed
from dist_seg.data.packing.sample import encode_instance_sample, encode_sample
from dist_seg.data.packing.shard_plan import in_shard_order, plan_shards, samples_by_key, shard_fingerprint
from dist_seg.data.raw.meaning import check_same_meaning, recorded_meaning
from dist_seg.data.raw.source import AnySource, SampleRef, Source, check_source, is_instances
from dist_seg.data.shards.channel_statistics import channel_statistics
from dist_seg.data.shards.manifest import FORMAT_VERSION, ChannelStatistics, Manifest, ShardInfo, Split, check_same_kind
from dist_seg.data.shards.names import MANIFEST_NAME, next_number
from dist_seg.data.shards.object_counts import ShardObjects
from dist_seg.data.shards.sidecar import Sidecar, crc32c
from dist_seg.data.shards.writer import EncodedMembers
from dist_seg.errors import DataError, UserError
from dist_seg.runtime.progress_bar import OnProgress
from dist_seg.storage.object_store import Storage, open_storage

_Known = dict[str, dict[str, SampleRef]]
"""The source's samples by split and by key in shards."""


@dataclass(frozen=True, kw_only=True)
class _Old:
    """A shard of the data set."""

    split: str
    info: ShardInfo
    keys: frozenset[str]
    """Those that the source has, too, in whatever split: of a large data set they may be few."""
    record: PackedShard | None
    """None where the data set has none: merged from several, say."""


def append(
    source: AnySource, out: Path, options: PackOptions = PackOptions(), *, progress: OnProgress | None = None
) -> PackResult:
    """Add shards for what `source` has and the data set in `out` has not, by split and key.

    What is only in `out` stays. The result speaks of new shards. Raises `DataError` for other classes, for masks that
    mean something else, for a sample whose content is no longer what was packed, and for one that would be in two
    splits.
    """
    check_source(source)
    if not (out / MANIFEST_NAME).exists():
        raise UserError(f"{out}: holds no finished data set to append to; pack without --append")
    refuse_indexed(out)
    storage = open_storage(out)
    manifest = read_manifest(out)
    packing = Packing(source=source, options=options, images=ImageKind(array=manifest.image, where=str(out)))
    check_same_kind(out, manifest, "what is to be appended", kind_of(source, manifest.image))
    recorded = read_options(out)
    _check_side(out, recorded, options.max_side)
    check_same_meaning(out, recorded_meaning(recorded), "what is to be appended", getattr(source, "meaning", None))
    known = samples_by_key(source.samples())
    before = _old_shards(storage, manifest, read_finished(out), known)
    _check_splits(out, before, known)
    old = _compared(storage, before, known, packing, recorded)
    new = _new_samples(old, known)
    first = {split: next_number(split, [shard.info.name for shard in old]) for split in known}
    jobs = plan_shards(new, options.shard_bytes, packing.identity, first) if new else []
    plan = [(shard.info.name, "") for shard in old] + [(job.name, job.fingerprint) for job in jobs]
    with open_state(out, plan, overwrite=False, extends=manifest) as state:
        written = write_jobs(state, jobs, packing, progress)
        added = [written.by_name[job.name] for job in jobs]
        total = _total(storage, manifest, before, old, added)
        records = [shard.record for shard in old if shard.record and (shard.info.samples or shard.record.skipped)]
        in_order = sorted([*records, *added], key=lambda record: (record.split, record.info.name))
        state.finish(in_order, total.to_json(), recorded)
    present = sum(map(len, known.values())) - len(new)
    return replace(result_of(total, added, kept=written.kept), present_samples=present)


def _check_side(out: Path, options: RecordedOptions | None, max_side: int | None) -> None:
    """Images of old and new shards are shrunk alike. The other options do not change what a sample becomes."""
    if options is None or (packed := options.get("--max-side")) == max_side:
        return
    if packed is None:
        raise UserError(f"{out}: was packed without --max-side; append without --max-side {max_side}, too")
    given = f"not --max-side {max_side}" if max_side else "too"
    raise UserError(f"{out}: was packed with --max-side {packed}; append with --max-side {packed}, {given}")


def _options_advice(recorded: RecordedOptions | None, options: PackOptions) -> str:
    """Where samples differ: whether other options may be the reason."""
    if recorded is None:
        return "if it was packed with options such as --max-side or --max-pixels, give them here, too; else "
    pixels = recorded.get("--max-pixels")
    if pixels != options.max_pixels:
        return (
            f"it was packed with --max-pixels {pixels}, and now that is {options.max_pixels}; give the same, or else "
        )
    return ""


def _old_shards(storage: Storage, manifest: Manifest, records: Sequence[PackedShard], known: _Known) -> list[_Old]:
    """Of the manifest, and those of which there is a record alone, as all of their samples were left out."""
    by_name = {record.info.name: record for record in records}
    old = []
    for split, part in manifest.splits.items():
        for info in part.shards:
            record = by_name.get(info.name)
            is_its = record is not None and record.info == info
            there = _sidecar(storage, info).keys()
            keys = frozenset(key for key in there if any(key in samples for samples in known.values()))
            old.append(_Old(split=split, info=info, keys=keys, record=record if is_its else None))
    empty = [record for record in records if not record.info.samples]
    return old + [_Old(split=r.split, info=r.info, keys=frozenset(), record=r) for r in empty]


def _sidecar(storage: Storage, info: ShardInfo) -> Sidecar:
    where = f"{storage.url}/{info.sidecar_name}"
    sidecar = Sidecar.parse(storage.read(info.sidecar_name), where)
    sidecar.check(info.samples, info.bytes, where)
    return sidecar


def _check_splits(out: Path, old: Sequence[_Old], known: _Known) -> None:
    """A sample that is validated on must not come into training, nor the other way round."""
    keys = {split: set().union(*(o.keys for o in old if o.split == split)) for split in {o.split for o in old}}
    for split, there in keys.items():
        for key in there - known.get(split, {}).keys():
            for other, samples in known.items():
                if key in samples and key not in keys.get(other, ()):
                    raise DataError(
                        f"{samples[key].where}: would come into split {other}, and {out} has {key!r} in split {split}; "
                        "divide the data as it was divided then (--val, --group-by), or rename the file"
                    )


def _compared(
    storage: Storage,
    old: Sequence[_Old],
    known: _Known,
    packing: Packing,
    recorded: RecordedOptions | None,
) -> list[_Old]:
    """The shards, with records of today's files. What was left out and may have been mended is no more in them.

    Sizes and times tell of most files that they are what was packed. Of the others the content is compared.
    """
    identity = packing.identity
    doubtful = [shard for shard in old if not _is_as_packed(shard, known.get(shard.split, {}), identity)]
    with ThreadPoolExecutor(packing.options.workers) as pool:
        found = pool.map(
            lambda shard: list(_differences(storage, shard, known.get(shard.split, {}), packing)), doubtful
        )
        reasons = [reason for of_shard in found for reason in of_shard]
    if reasons:
        more = f"\n  and {len(reasons) - MAX_REFUSALS} more" if len(reasons) > MAX_REFUSALS else ""
        raise DataError(
            f"{len(reasons)} sample{'s are' if len(reasons) > 1 else ' is'} not what was packed, and old shards stay "
            "as they are:\n  "
            + "\n  ".join(reasons[:MAX_REFUSALS])
            + f"{more}\n{_options_advice(recorded, packing.options)}"
            "pack everything anew (--overwrite), or rename what has changed, to add it beside the old"
        )
    names = {shard.info.name for shard in doubtful}
    return [
        _with_record_of(shard, known.get(shard.split, {}), identity) if shard.info.name in names else shard
        for shard in old
    ]


def _is_as_packed(shard: _Old, known: dict[str, SampleRef], identity: object) -> bool:
    everything = shard.keys | _skipped_keys(shard)
    if known.keys().isdisjoint(everything):
        return True
    if shard.record is None or not (_has_all_of(shard, known) and _skipped_keys(shard) <= known.keys()):
        return False
    today = _fingerprint(shard, everything, known, identity)
    return bool(today) and shard.record.fingerprint == today


def _has_all_of(shard: _Old, known: dict[str, SampleRef]) -> bool:
    return len(shard.keys) == shard.info.samples and shard.keys <= known.keys()


def _fingerprint(shard: _Old, keys: frozenset[str], known: dict[str, SampleRef], identity: object) -> str:
    samples = in_shard_order(shard.split, {key: known[key] for key in keys})
    return shard_fingerprint(shard.info.name, samples, identity)


def _with_record_of(shard: _Old, known: dict[str, SampleRef], identity: object) -> _Old:
    if shard.record is None:
        return shard
    skipped = tuple(refusal for refusal in shard.record.skipped if refusal.key not in known)
    record = replace(shard.record, skipped=skipped)
    if not skipped and shard.keys and _has_all_of(shard, known):
        record = replace(record, fingerprint=_fingerprint(shard, shard.keys, known, identity))
    return replace(shard, record=record)


def _differences(storage: Storage, shard: _Old, known: dict[str, SampleRef], packing: Packing) -> Iterator[str]:
    """What of the shard is packed otherwise than the source's files would be now."""
    if not shard.keys:
        return
    sidecar = _sidecar(storage, shard.info)
    for i, key in enumerate(sidecar.keys()):
        sample = known.get(key)
        if sample is None:
            continue
        try:
            members = _encoded(sample, packing).members
        except DataError as error:
            yield str(error)
            continue
        for role, (suffix, data) in zip(sidecar.roles, members, strict=True):
            member = sidecar.member(i, role)
            is_equal = (suffix, len(data), crc32c(data)) == (member.suffix, member.length, member.crc32c)
            if not is_equal and not (
                suffix == member.suffix
                and suffix.endswith("png")
                and _shows_the_same(data, storage.read_range(shard.info.name, member.offset, member.length))
            ):
                where = sample.where if role == "image" else sample.mask_where or sample.where
                yield f"{where}: differs from {key}.{member.suffix} in {shard.info.name}"
                break


def _encoded(sample: SampleRef, packing: Packing) -> EncodedMembers:
    source, options, kind = packing.source, packing.options, packing.images
    limits = (options.max_pixels, options.max_side)
    if is_instances(source):
        return encode_instance_sample(sample, source, *limits, skip_bad=options.skip_bad, kind=kind).members
    return encode_sample(sample, cast(Source, source), *limits, kind).members


def _shows_the_same(png: bytes, other: bytes) -> bool:
    """Another version of the library may have written the same pixels in other bytes."""
    with Image.open(io.BytesIO(png)) as a, Image.open(io.BytesIO(other)) as b:
        return a.mode == b.mode and np.array_equal(np.asarray(a), np.asarray(b))


def _new_samples(old: Sequence[_Old], known: _Known) -> list[SampleRef]:
    there: dict[str, set[str]] = {split: set() for split in known}
    for shard in old:
        there.setdefault(shard.split, set()).update(shard.keys, _skipped_keys(shard))
    return [ref for split, samples in known.items() for key, ref in samples.items() if key not in there[split]]


def _total(
    storage: Storage, manifest: Manifest, before: Sequence[_Old], old: Sequence[_Old], added: Sequence[PackedShard]
) -> Manifest:
    """The data set's manifest with what was added. `before`: the old shards with what was left out of them then."""
    kind = replace(manifest, splits={}, format_version=FORMAT_VERSION)
    more = manifest_of(kind, [shard for shard in added if shard.split in manifest.splits], whole=False)
    splits = dict(manifest_of(kind, [shard for shard in added if shard.split not in manifest.splits]).splits)
    for name, split in manifest.splits.items():
        of_split = [shard for shard in old if shard.split == name]
        split = _without_mended(split, [shard for shard in before if shard.split == name], of_split)
        if name in more.splits:
            objects = [shard.objects for shard in added if shard.split == name and shard.objects]
            if manifest.task == "instance":
                objects += [_objects_of(storage, shard, manifest.num_classes) for shard in of_split]
            new = more.splits[name]
            channels = _channels(storage, manifest.image, of_split, [s for s in added if s.split == name])
            split = summed([split, new], [*split.shards, *new.shards], objects, channels)
        splits[name] = split
    return replace(kind, splits=dict(sorted(splits.items())))


def _without_mended(split: Split, before: Sequence[_Old], now: Sequence[_Old]) -> Split:
    """The split without what was left out of it and is tried again."""
    (samples, strays), (samples_now, strays_now) = (left_out(_refusals(shards)) for shards in (before, now))
    split = replace(split, skipped_samples=split.skipped_samples - (samples - samples_now))
    if split.objects is None:
        return split
    annotations = split.objects.skipped_annotations - (strays - strays_now)
    return replace(split, objects=replace(split.objects, skipped_annotations=annotations))


def _refusals(shards: Sequence[_Old]) -> list[Refusal]:
    return [refusal for shard in shards if shard.record for refusal in shard.record.skipped]


def _skipped_keys(shard: _Old) -> set[str]:
    return {refusal.key for refusal in shard.record.skipped} if shard.record else set()


def _objects_of(storage: Storage, shard: _Old, num_classes: int) -> ShardObjects:
    if shard.record and shard.record.objects:
        return shard.record.objects
    return shard_objects(storage, shard.info, _sidecar(storage, shard.info), num_classes)


def _channels(
    storage: Storage, layout: ArrayLayout | None, old: Sequence[_Old], added: Sequence[PackedShard]
) -> ChannelStatistics | None:
    """Of arrays; shards without a record are read."""
    if layout is None:
        return None
    counts = [shard.channels for shard in added if shard.channels]
    for shard in old:
        if shard.record and shard.record.channels:
            counts.append(shard.record.channels)
        else:
            counts.append(shard_channels(storage, shard.info, _sidecar(storage, shard.info), layout))
    return channel_statistics(layout, counts)
