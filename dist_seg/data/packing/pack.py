"""Packs a raw data set into shards and a manifest.

The same source gives the same bytes for any number of workers. Interrupted packing resumes: it keeps each shard that is
whole, undamaged, and still matches the source. The records for this are in `pack.json` beside the manifest, and in
`.pack/` until the data set is finished.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_seg.data.packing.folder import open_state, refuse_indexed
from dist_seg.data.packing.image_kind import find_kind
from dist_seg.data.packing.options import Packing, PackOptions
from dist_seg.data.packing.parts import PART_NAME, PackedPart, Part, contents_digest, plan_digest
from dist_seg.data.packing.pool import write_jobs
from dist_seg.data.packing.records import PackedShard, Refusal, records_text
from dist_seg.data.packing.shard import check_kinds
from dist_seg.data.packing.shard_plan import plan_shards
from dist_seg.data.packing.totals import manifest_header, manifest_of
from dist_seg.data.raw.source import AnySource, check_source
from dist_seg.data.shards.manifest import Manifest
from dist_seg.data.shards.names import MANIFEST_NAME
from dist_seg.runtime.progress_bar import OnProgress


@dataclass(frozen=True, kw_only=True)
class PackResult:
    """What packing did."""

    manifest: Manifest
    skipped: tuple[Refusal, ...]
    """Samples that were left out because of `skip_bad`."""
    skipped_annotations: tuple[str, ...]
    """Annotations that were left out of samples that were packed."""
    written_shards: int
    """Not counting shards whose samples were all left out."""
    kept_shards: int
    """Shards that were there already, counted in the same way."""
    present_samples: int = 0
    """When appending: samples of the source that the data set had before."""


def pack(
    source: AnySource,
    out: Path,
    options: PackOptions = PackOptions(),
    *,
    part: Part | None = None,
    overwrite: bool = False,
    progress: OnProgress | None = None,
) -> PackResult:
    """Pack `source`, or a part of it, into the folder `out`. `progress` counts samples.

    Refuses a folder that holds another finished data set unless `overwrite` is set. A part gets no manifest: see
    `merge`. Raises `DataError` that names the first files that cannot be packed. `skip_bad` leaves them out and counts
    them, unless most of the samples would be left out for the kind of their image.
    """
    check_source(source)
    refuse_indexed(out)
    samples = source.samples()
    packing = Packing(source=source, options=options, images=find_kind(samples, source, options.max_pixels))
    plan = plan_shards(samples, options.shard_bytes, packing.identity)
    jobs = part.share(plan) if part else plan
    document = PART_NAME if part else MANIFEST_NAME
    names = [(job.name, job.fingerprint) for job in jobs]
    with open_state(out, names, overwrite=overwrite, document=document) as state:
        written = write_jobs(state, jobs, packing, progress)
        shards = [written.by_name[job.name] for job in jobs]
        if part is None:  # merge checks the kinds of all parts together
            check_kinds(shards, packing.images)
        header = manifest_header(source, packing.images.array)
        manifest = manifest_of(header, shards, whole=part is None)
        text, recorded = manifest.to_json(), packing.recorded()
        if part:
            text = PackedPart(
                part=part,
                header=header,
                plan=plan_digest(plan),
                contents=contents_digest(plan),
                plan_shards=len(plan),
                plan_samples=sum(len(job.samples) for job in plan),
                options=recorded,
                records_sha256=hashlib.sha256(records_text(shards, recorded)).hexdigest(),
            ).to_json()
        state.finish(shards, text, recorded)
    return result_of(manifest, shards, kept=written.kept)


def result_of(manifest: Manifest, shards: Sequence[PackedShard], *, kept: int) -> PackResult:
    """The result of packing these shards. kept: how many with samples were there already."""
    return PackResult(
        manifest=manifest,
        skipped=tuple(refusal for shard in shards for refusal in shard.skipped),
        skipped_annotations=tuple(text for s in shards if s.objects for text in s.objects.skipped_annotations),
        written_shards=sum(shard.info.samples > 0 for shard in shards) - kept,
        kept_shards=kept,
    )
