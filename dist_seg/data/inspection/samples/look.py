"""The pass over the samples. Worker processes decode each sample once, a few dozen at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.inspection.findings import Place
from dist_seg.data.inspection.samples.alignment import REACH
from dist_seg.data.inspection.samples.decoded import read_members, view_sample
from dist_seg.data.inspection.samples.measures import MEASURES, measure
from dist_seg.data.inspection.workers import Workers
from dist_seg.data.shards.counts import spread_samples
from dist_seg.data.shards.manifest import Manifest, ShardInfo, Split
from dist_seg.data.shards.opened import OpenedData, read_unchecked_sidecar
from dist_seg.errors import DataError
from dist_seg.storage.object_store import Storage

_SAMPLES_AT_ONCE = 32
_KEPT_BYTES = 30 << 20


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A sample that cannot be looked at."""

    place: Place
    reason: str


@dataclass(frozen=True, kw_only=True)
class Looked:
    """The records of samples of one split."""

    keys: list[str]
    records: NDArray[np.void]
    """(N,) of `MEASURES`, in the order of the keys."""
    surface: NDArray[np.float64]
    """(49, 49) sum of the fits of all masks at every shift; see `alignment`."""
    num_fits: int
    """Number of masks in the sum."""
    unreadable: list[Unreadable]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Some samples of a shard."""

    storage: Storage
    manifest: Manifest
    """Without shards, because it goes to the workers with every job."""
    split: str
    shard_number: int
    shard: ShardInfo
    indices: tuple[int, ...]
    max_pixels: int


def look_at_samples(
    data: OpenedData,
    splits: Mapping[str, Split],
    *,
    limit: int | None,
    workers: Workers,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Looked]:
    """Looks at the samples: at most `limit` of each split, evenly spread over it.

    `progress` gets the number of samples that are done, and of all. A sample that is damaged or cannot be decoded is
    listed as unreadable. Raises `StorageError` and, for a damaged index, `DataError`.
    """
    # Without shards, because there may be many. The splits stay: arrays are shown on the scale of their statistics.
    whole = data.manifest
    bare = replace(whole, splits={name: replace(split, shards=()) for name, split in whole.splits.items()})
    jobs = [job for name, split in splits.items() for job in _jobs(data, bare, name, split, limit)]
    total, done = sum(len(job.indices) for job in jobs), 0
    parts: dict[str, list[Looked]] = {name: [] for name in splits}
    for job, looked in zip(jobs, workers.map(_look, jobs), strict=True):
        parts[job.split].append(looked)
        done += len(job.indices)
        if progress:
            progress(done, total)
    return {name: _together(looked) for name, looked in parts.items()}


def _jobs(data: OpenedData, manifest: Manifest, name: str, split: Split, limit: int | None) -> Iterator[_Job]:
    samples = [shard.samples for shard in split.shards]
    numbers, indices = spread_samples(samples, sum(samples) if limit is None else limit)
    cuts = np.searchsorted(numbers, np.arange(len(samples) + 1))
    for number, (shard, start, stop) in enumerate(zip(split.shards, cuts[:-1], cuts[1:], strict=True)):
        inside = indices[start:stop].tolist()
        for at in range(0, len(inside), _SAMPLES_AT_ONCE):
            yield _Job(
                storage=data.storage,
                manifest=manifest,
                split=name,
                shard_number=number,
                shard=shard,
                indices=tuple(inside[at : at + _SAMPLES_AT_ONCE]),
                max_pixels=data.max_pixels,
            )


def _look(job: _Job) -> Looked:
    # glibc returns freed memory to the system until it has seen a block of this size freed. Taking it again, page by
    # page, would be a quarter of the work.
    np.empty(_KEPT_BYTES, np.uint8)
    sidecar = read_unchecked_sidecar(job.storage, job.shard)
    sidecar.check(job.shard.samples, job.shard.bytes, f"{job.storage.url}/{job.shard.sidecar_name}")
    keys, records, unreadable = [], [], []
    surface, num_fits = np.zeros((2 * REACH + 1, 2 * REACH + 1)), 0
    for index in job.indices:
        key = sidecar.key(index)
        try:
            members = read_members(job.storage, job.shard, sidecar, index)
            size = (sidecar.height(index), sidecar.width(index))
            view = view_sample(members, job.manifest, *size, job.max_pixels)
        except (DataError, UndecodableError) as error:
            place = Place(split=job.split, key=key, shard=job.shard_number, index=index)
            unreadable.append(Unreadable(place=place, reason=str(error)))
            continue
        record, fit = measure(view)
        record["shard"], record["index"] = job.shard_number, index
        keys.append(key)
        records.append(record)
        if fit:
            surface += fit.surface
            num_fits += 1
    stacked = np.stack(records) if records else np.zeros(0, MEASURES)
    return Looked(keys=keys, records=stacked, surface=surface, num_fits=num_fits, unreadable=unreadable)


def _together(parts: Sequence[Looked]) -> Looked:
    return Looked(
        keys=[key for part in parts for key in part.keys],
        records=np.concatenate([np.zeros(0, MEASURES), *(part.records for part in parts)]),
        surface=np.sum([np.zeros((2 * REACH + 1, 2 * REACH + 1)), *(part.surface for part in parts)], axis=0),
        num_fits=sum(part.num_fits for part in parts),
        unreadable=[found for part in parts for found in part.unreadable],
    )
