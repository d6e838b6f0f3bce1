"""What packing and appending share: which shards are to be written, writing them, and the manifest of the result."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

from dist_seg.data.arrays import ArrayLayout
from dist_seg.data.channel_statistics import channel_statistics
from dist_seg.data.formats import AnySource, is_instances, task_of
from dist_seg.data.formats.meaning import MEANING, Meaning
from dist_seg.data.formats.splitting import DIVISION, Division
from dist_seg.data.headers import MAX_PIXELS
from dist_seg.data.image_kind import PICTURES, ImageKind
from dist_seg.data.manifest import ChannelStatistics, Manifest, ObjectCounts, Split
from dist_seg.data.object_counts import object_counts
from dist_seg.data.pack_pool import pack_shards
from dist_seg.data.pack_records import Options
from dist_seg.data.pack_shard import PackedShard, left_out
from dist_seg.data.pack_state import PackState
from dist_seg.data.shard_plan import ShardJob
from dist_seg.errors import DataError, UserError


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How samples become shards."""

    workers: int = 1
    """Processes that decode and write, one shard at a time each."""
    skip_bad: bool = False
    """What cannot be packed is left out and counted."""
    max_pixels: int = MAX_PIXELS
    """Of an image or mask; a larger one is bad."""
    max_side: int | None = None
    """Images whose longer side is longer are shrunk to it, with their masks."""
    images: ImageKind = PICTURES
    """What all images are; others are bad."""
    progress: Callable[[int, int], None] | None = None
    """Is told samples done and in all."""

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < 1:
            raise UserError(f"--max-side {self.max_side}: give a number of pixels from 1")


def kind_of(source: AnySource, array: ArrayLayout | None = None) -> Manifest:
    """The manifest of the source's data, without its splits. array: of images that are arrays."""
    return Manifest(
        task=task_of(source),
        class_names=tuple(source.class_names),
        palette=tuple(source.palette),
        ignore_index=source.ignore_index,
        category_ids=tuple(source.category_ids) if is_instances(source) else None,
        image=array,
    )


def identity_of(source: AnySource, writing: Writing) -> tuple[object, ...]:
    """What decides a shard's bytes, besides its samples."""
    identity: tuple[object, ...] = (source.class_names, source.ignore_index, writing.max_pixels)
    if task_of(source) == "multilabel":
        identity = (*identity, "multilabel")
    if is_instances(source):
        identity = (*identity, source.category_ids)
    if writing.images.array:
        identity = (*identity, str(writing.images.array))
    return identity if writing.max_side is None else (*identity, {"max_side": writing.max_side})


def options_of(source: AnySource, writing: Writing, shard_bytes: int) -> Options:
    """What else decides shards, by the names that the user knows."""
    options: Options = {
        "--shard-mb": shard_bytes / 1e6,
        "--max-pixels": writing.max_pixels,
        "--max-side": writing.max_side,
    }
    division: Division | None = getattr(source, "division", None)
    meaning: Meaning | None = getattr(source, "meaning", None)
    if division is not None:
        options[DIVISION] = division.record
    if meaning is not None:
        options[MEANING] = meaning
    return options


@dataclass(frozen=True, kw_only=True)
class WrittenShards:
    """All that were to be written, by their names."""

    by_name: dict[str, PackedShard]
    kept: int
    """Of them, how many with samples were there already."""


def write_jobs(state: PackState, jobs: Sequence[ShardJob], source: AnySource, writing: Writing) -> WrittenShards:
    """Write the shards that are not there yet."""
    with ThreadPoolExecutor(max(1, writing.workers)) as pool:  # reads whole shards to compare their hashes
        found = pool.map(lambda job: state.kept(job.name, job.fingerprint, writing.skip_bad), jobs)
        packed = {shard.info.name: shard for shard in found if shard}
    kept, to_do = (
        sum(shard.info.samples > 0 for shard in packed.values()),
        [job for job in jobs if job.name not in packed],
    )
    total = sum(len(job.samples) for job in jobs)
    done = total - sum(len(job.samples) for job in to_do)

    def report(count: int) -> None:
        if writing.progress:
            writing.progress(done + count, total)

    report(0)
    packing = pack_shards(
        to_do,
        source,
        state.out,
        workers=writing.workers,
        kind=writing.images,
        skip_bad=writing.skip_bad,
        max_pixels=writing.max_pixels,
        max_side=writing.max_side,
        on_progress=report,
    )
    with closing(packing):
        for shard in packing:
            state.record(shard)
            packed[shard.info.name] = shard
    return WrittenShards(by_name=packed, kept=kept)


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
                skipped_samples=left_out(refusal for part in parts for refusal in part.skipped)[0],
                objects=_objects(parts),
                channels=_channels(kind, parts),
            )
            for name, parts in by_split.items()
        },
    )


def _objects(shards: Sequence[PackedShard]) -> ObjectCounts | None:
    counts = object_counts([shard.objects for shard in shards if shard.objects])
    if counts is None:
        return None
    _, strays = left_out(refusal for shard in shards for refusal in shard.skipped)
    return replace(counts, skipped_annotations=counts.skipped_annotations + strays)


def _channels(kind: Manifest, shards: Sequence[PackedShard]) -> ChannelStatistics | None:
    """Of arrays; a part of a data set may be without a sample of a split."""
    counted = [shard.channels for shard in shards if shard.channels and shard.channels.pixels]
    return channel_statistics(kind.image, counted) if kind.image and counted else None
