"""Checks where classes occur: in which splits, in how many samples, and which ones together."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.inspection.findings import Finding, Severity
from dist_seg.data.inspection.table import SampleTable
from dist_seg.data.shards.manifest import Manifest

_MIN_SAMPLES = 10


def class_findings(manifest: Manifest, splits: Sequence[str], table: SampleTable | None) -> Iterator[Finding]:
    """Findings for some of the manifest's splits, and for their samples if these were looked at."""
    yield from _absent(manifest, splits)
    if table is not None and len(table) >= _MIN_SAMPLES:
        yield from _seen_once(manifest, splits, table)


def cooccurrence(table: SampleTable, split: str) -> NDArray[np.int64]:
    """(classes, classes) number of the split's samples with both classes; on the diagonal, with the class."""
    present = table.present[table.rows(split)].astype(np.float64)
    return np.rint(present.T @ present).astype(np.int64)


def _absent(manifest: Manifest, splits: Sequence[str]) -> Iterator[Finding]:
    counts = {
        name: split.objects.class_objects if split.objects else split.class_pixels
        for name, split in manifest.splits.items()
        if split.num_samples
    }
    for split, own in counts.items():
        if split not in splits:
            continue
        names = [
            name
            for i, name in enumerate(manifest.class_names)
            if not own[i] and any(other[i] for other in counts.values())
        ]
        if names:
            yield Finding(
                kind="absent_class",
                severity=Severity.WARNING,
                what=f"classes that other splits have are absent from {split}: {', '.join(names)}",
                count=len(names),
                examples=(),
                advice="make every split hold every class, or drop the class: it cannot be learned or scored there",
                splits=(split,),
            )


def _seen_once(manifest: Manifest, splits: Sequence[str], table: SampleTable) -> Iterator[Finding]:
    seen = table.present.sum(axis=0)
    samples = _samples_by_class(manifest, splits, table)
    if samples is None:
        return
    classes = np.flatnonzero((samples == 1) & (seen <= 1))
    if len(classes):
        shown = [int(i) for i in classes if seen[i]]  # If only some samples were looked at, it may be in another one.
        rows = [int(np.flatnonzero(table.present[:, i])[0]) for i in shown]
        unseen = ", ".join(manifest.class_names[i] for i in classes if not seen[i])
        yield Finding(
            kind="class_seen_once",
            severity=Severity.WARNING,
            what=f"classes are in a single sample{f' (not looked at: {unseen})' * bool(unseen)}",
            count=len(classes),
            examples=table.examples(rows, (manifest.class_names[i] for i in shown)),
            advice="perhaps a labelling mistake; a class needs many samples to be learned",
        )


def _samples_by_class(manifest: Manifest, splits: Sequence[str], table: SampleTable) -> NDArray[np.int64] | None:
    """(classes,) number of all samples with each class; None if that is unknown because only some were looked at."""
    parts = [manifest.split(name) for name in splits]
    if len(table) == sum(part.num_samples for part in parts):
        seen: NDArray[np.int64] = table.present.sum(axis=0, dtype=np.int64)
        return seen
    listed = [shard.class_samples for part in parts for shard in part.shards]
    known = [counts for counts in listed if counts is not None]
    if len(known) < len(listed):
        return None
    total: NDArray[np.int64] = np.array(known, np.int64).sum(axis=0)
    return total
