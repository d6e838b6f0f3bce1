"""Objects that are hardly any or there twice, and annotations that contradict their masks; of instances."""

from collections.abc import Iterator

import numpy as np

from dist_seg.data.inspection.findings import Finding, Severity
from dist_seg.data.inspection.table import SampleTable

_COUNTED = (
    ("specks", Severity.WARNING, "objects of {} are of one pixel", "leave them out: clicks that slipped, as a rule"),
    ("slivers", Severity.NOTE, "objects of {} are slivers, less than 2 pixels wide", "look whether they are objects"),
    (
        "twins",
        Severity.WARNING,
        "objects of {} have the mask and the class of another",
        "leave one of each out: a model that finds it once is scored as if it missed one",
    ),
    (
        "odd_boxes",
        Severity.WARNING,
        "annotations of {} have a bbox that is not their mask's",
        "write x, y, width, height of the mask: training takes the masks' boxes, COCO's box AP the annotations'",
    ),
    (
        "odd_areas",
        Severity.WARNING,
        "annotations of {} have an area far from their mask's",
        "write the pixels of the masks: by the annotations' area COCO's AP tells small, medium and large objects apart",
    ),
    (
        "zero_areas",
        Severity.NOTE,
        "annotations of {} have the area 0",
        "COCO's AP takes them for small ones; all else is measured at their masks",
    ),
)


def object_findings(table: SampleTable) -> Iterator[Finding]:
    """Of every split."""
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
                advice="as it should be where nothing is to be seen; look at some",
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
