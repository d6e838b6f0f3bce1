"""Which classes are where: in which splits, in how many samples, and which together."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.inspection.findings import Finding, Severity
from dist_seg.data.inspection.table import SampleTable
from dist_seg.data.manifest import Manifest

_MIN_SAMPLES = 10


def class_findings(manifest: Manifest, splits: Sequence[str], table: SampleTable | None) -> Iterator[Finding]:
    """Of some of the manifest's splits, and of the samples where they were looked at."""
    yield from _absent(manifest, splits)
    if table is not None and len(table) >= _MIN_SAMPLES:
        yield from _seen_once(manifest, table)


def cooccurrence(table: SampleTable, split: str) -> NDArray[np.int64]:
    """(classes, classes): in how many of the split's samples both are; on the diagonal, in how many one is."""
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
                advice="split so that every class is in each, or drop the class: it cannot be learned or scored there",
                splits=(split,),
            )


def _seen_once(manifest: Manifest, table: SampleTable) -> Iterator[Finding]:
    classes = np.flatnonzero(table.present.sum(axis=0) == 1)
    if len(classes):
        rows = [int(np.flatnonzero(table.present[:, i])[0]) for i in classes]
        yield Finding(
            kind="class_seen_once",
            severity=Severity.WARNING,
            what="classes are in a single sample",
            count=len(classes),
            examples=table.examples(rows, (manifest.class_names[i] for i in classes)),
            advice="a slip of labelling perhaps; a class needs many samples to be learned",
        )
