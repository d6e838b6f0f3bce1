"""Finds objects that are tiny or duplicated, and annotations that contradict their masks. Instance data only."""

from collections.abc import Iterator

import numpy as np

from dist_seg.data.inspection.findings import Finding, Severity
from dist_seg.data.inspection.table import SampleTable

_COUNTED = (
    ("specks", Severity.WARNING, "objects of {} have one pixel", "leave them out: usually slips of the mouse"),
    ("slivers", Severity.NOTE, "objects of {} are slivers, less than 2 pixels wide", "check whether they are objects"),
    (
        "twins",
        Severity.WARNING,
        "objects of {} have the mask and the class of another object",
        "leave one of each out: a model that finds it once is scored as if it missed the other",
    ),
    (
        "odd_boxes",
        Severity.WARNING,
        "annotations of {} have a bbox that is not their mask's",
        "write x, y, width, height of the mask: training uses the masks' boxes, COCO's box AP the annotations'",
    ),
    (
        "odd_areas",
        Severity.WARNING,
        "annotations of {} have an area far from their mask's",
        "write the masks' pixels: COCO's AP sorts objects into small, medium and large by the annotated area",
    ),
    (
        "zero_areas",
        Severity.NOTE,
        "annotations of {} have the area 0",
        "COCO's AP counts them as small; everything else uses their masks",
    ),
)


def object_findings(table: SampleTable) -> Iterator[Finding]:
    """Findings for every split."""
    for split in table.splits:
        rows = table.rows(split)
        records = table.records[rows]
        empty = table.by_key(rows[records["objects"] == 0])
        if len(empty):
            yield Finding(
                kind="no_objects",
                severity=Severity.NOTE,
                what=f"images of {split} have no objects",
                count=len(empty),
                examples=table.examples(empty),
                advice="correct if there is nothing to see; look at some",
                splits=(split,),
            )
        for name, severity, what, advice in _COUNTED:
            count = int(records[name].sum())
            if count:
                order = np.argsort(-records[name], kind="stable")
                order = order[records[name][order] > 0]
                yield Finding(
                    kind=name,
                    severity=severity,
                    what=what.format(split),
                    count=count,
                    examples=table.examples(rows[order], (str(n) for n in records[name][order])),
                    advice=advice,
                    splits=(split,),
                )
