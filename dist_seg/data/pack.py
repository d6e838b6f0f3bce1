"""Turning a raw data set into shards and a manifest.

The same source gives the same bytes, whatever the number of workers. Packing that was interrupted goes on: a shard that
is whole, undamaged and still what the source says is kept. `pack.json` beside the manifest, and `.pack/` while it is
not finished, hold what that takes.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from dist_seg.data.formats import AnySource, check_source, is_instances, task_of
from dist_seg.data.headers import MAX_PIXELS
from dist_seg.data.manifest import MANIFEST_NAME, Manifest, Split
from dist_seg.data.object_counts import object_counts
from dist_seg.data.pack_part import PART_NAME, PackedPart, Part, plan_digest
from dist_seg.data.pack_pool import pack_shards
from dist_seg.data.pack_shard import PackedShard, Refusal
from dist_seg.data.pack_state import PackState, open_state, records_text
from dist_seg.data.shard_plan import ShardJob, plan_shards
from dist_seg.errors import DataError

SHARD_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class PackResult:
    """What packing did."""

    manifest: Manifest
    skipped: tuple[Refusal, ...]
    """Samples that were left out, with `skip_bad`."""
    skipped_annotations: tuple[str, ...]
    """Annotations that were, while their samples were kept."""
    written_shards: int
    kept_shards: int
    """Shards that were there already."""


def pack(
    source: AnySource,
    out: Path,
    *,
    workers: int = 1,
    shard_bytes: int = SHARD_BYTES,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
    part: Part | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PackResult:
    """Pack `source`, or a part of it, into the folder `out`.

    `workers` processes decode and write, one shard at a time each. `progress` is told samples done and in all. A
    folder that holds another finished data set is refused unless `overwrite`. A part gets no manifest: see `merge`.
    Raises `DataError` that names the first files that cannot be packed; with `skip_bad` they are left out and counted.
    """
    check_source(source)
    kind, identity = kind_of(source), _identity(source, max_pixels)
    plan = plan_shards(source.samples(), shard_bytes, identity)
    jobs = part.share(plan) if part else plan
    document = PART_NAME if part else MANIFEST_NAME
    names = [(job.name, job.fingerprint) for job in jobs]
    with open_state(out, names, overwrite=overwrite, document=document) as state:
        packed = _write_jobs(
            state, jobs, source, workers=workers, skip_bad=skip_bad, max_pixels=max_pixels, progress=progress
        )
        shards = [packed.shards[job.name] for job in jobs]
        manifest = manifest_of(kind, shards, whole=part is None)
        text = manifest.to_json()
        if part:
            text = PackedPart(
                part=part,
                kind=kind,
                plan=plan_digest(plan),
                plan_shards=len(plan),
                plan_samples=sum(len(job.samples) for job in plan),
                options={"--shard-mb": shard_bytes / 1e6, "--max-pixels": max_pixels},
                records_sha256=hashlib.sha256(records_text(shards)).hexdigest(),
            ).to_json()
        state.finish(shards, text)
    return PackResult(
        manifest=manifest,
        skipped=tuple(refusal for shard in shards for refusal in shard.skipped),
        skipped_annotations=tuple(text for s in shards if s.objects for text in s.objects.skipped_annotations),
        written_shards=len(jobs) - packed.kept,
        kept_shards=packed.kept,
    )


def kind_of(source: AnySource) -> Manifest:
    """The manifest of the source's data, without its splits."""
    return Manifest(
        task=task_of(source),
        class_names=tuple(source.class_names),
        palette=tuple(source.palette),
        ignore_index=source.ignore_index,
        category_ids=tuple(source.category_ids) if is_instances(source) else None,
    )


def _identity(source: AnySource, max_pixels: int) -> tuple[object, ...]:
    """What decides a shard's bytes, besides its samples."""
    identity: tuple[object, ...] = (source.class_names, source.ignore_index, max_pixels)
    if task_of(source) == "multilabel":
        identity = (*identity, "multilabel")
    return (*identity, source.category_ids) if is_instances(source) else identity


@dataclass(frozen=True, kw_only=True)
class _Packed:
    shards: dict[str, PackedShard]
    kept: int


def _write_jobs(
    state: PackState,
    jobs: Sequence[ShardJob],
    source: AnySource,
    *,
    workers: int,
    skip_bad: bool,
    max_pixels: int,
    progress: Callable[[int, int], None] | None,
) -> _Packed:
    """Write the shards that are not there yet."""
    with ThreadPoolExecutor(max(1, workers)) as pool:  # reads whole shards to compare their hashes
        found = pool.map(lambda job: state.kept(job.name, job.fingerprint, skip_bad), jobs)
        packed = {shard.info.name: shard for shard in found if shard}
    kept, to_do = len(packed), [job for job in jobs if job.name not in packed]
    total = sum(len(job.samples) for job in jobs)
    done = total - sum(len(job.samples) for job in to_do)

    def report(count: int) -> None:
        if progress:
            progress(done + count, total)

    report(0)
    packing = pack_shards(
        to_do, source, state.out, workers=workers, skip_bad=skip_bad, max_pixels=max_pixels, on_progress=report
    )
    with closing(packing):
        for shard in packing:
            state.record(shard)
            packed[shard.info.name] = shard
    return _Packed(shards=packed, kept=kept)


def manifest_of(kind: Manifest, shards: Iterable[PackedShard], *, whole: bool = True) -> Manifest:
    """The manifest of these shards. Raises `DataError` for a split of a whole data set without one good sample."""
    by_split: dict[str, list[PackedShard]] = {}
    for shard in shards:
        by_split.setdefault(shard.split, []).append(shard)
    for name, parts in by_split.items():
        if whole and not any(part.info.samples for part in parts):
            first = next(refusal for part in parts for refusal in part.skipped)
            raise DataError(f"not one sample of split {name} can be packed; the first: {first.reason}")
    return replace(
        kind,
        splits={
            name: Split(
                shards=tuple(part.info for part in parts if part.info.samples),
                class_pixels=tuple(sum(counts) for counts in zip(*(part.class_pixels for part in parts), strict=True)),
                ignored_pixels=sum(part.ignored_pixels for part in parts),
                skipped_samples=sum(len(part.skipped) for part in parts),
                objects=object_counts([part.objects for part in parts if part.objects]),
            )
            for name, parts in by_split.items()
        },
    )
