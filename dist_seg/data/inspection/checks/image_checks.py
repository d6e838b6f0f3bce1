"""Finds images that differ from the rest in size, brightness or contrast, and images of one colour."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.inspection.findings import Finding, Severity
from dist_seg.data.inspection.table import SampleTable

_FAR = 6.0
"""Robust standard deviations."""
_MAD_TO_DEVIATION = 1.4826
# Smallest deviations to assume: if nearly all images are equal, the median of the differences is 0.
_LEAST_GREYS = 2.0
_LEAST_LOG2 = 0.1
_MIN_SAMPLES = 10


def image_findings(table: SampleTable) -> Iterator[Finding]:
    """Findings over all splits together."""
    records = table.records
    constant = records["constant"]
    if constant.any():
        rows = table.by_key(np.flatnonzero(constant))
        yield Finding(
            kind="constant",
            severity=Severity.WARNING,
            what="images are of one colour",
            count=len(rows),
            examples=table.examples(rows, (f"grey {value:.0f}" for value in records["brightness"][rows])),
            advice="leave them out, or fix what wrote them",
        )
    if len(table) < _MIN_SAMPLES:
        return
    height, width = records["height"].astype(np.float64), records["width"].astype(np.float64)
    yield from _far(
        table,
        {"size": np.log2(height * width) / 2, "shape": np.log2(width / height)},
        _LEAST_LOG2,
        "odd_size",
        f"of {len(table)} images differ far from the rest in size or shape",
        [f"{w:.0f} x {h:.0f}" for w, h in zip(width, height, strict=True)],
    )
    yield from _far(
        table,
        {"brightness": records["brightness"], "contrast": records["contrast"]},
        _LEAST_GREYS,
        "odd_brightness",
        f"of {len(table)} images differ far from the rest in brightness or contrast",
        [f"mean {mean:.0f}, deviation {dev:.0f}" for mean, dev in records[["brightness", "contrast"]].tolist()],
    )


def _far(
    table: SampleTable,
    quantities: dict[str, NDArray[np.floating]],
    least: float,
    kind: str,
    what: str,
    remarks: list[str],
) -> Iterator[Finding]:
    distance = np.max([robust_distance(values, least) for values in quantities.values()], axis=0)
    rows = np.flatnonzero((distance > _FAR) & (~table.records["constant"] | (kind == "odd_size")))
    if len(rows):
        rows = rows[np.argsort(-distance[rows], kind="stable")]
        yield Finding(
            kind=kind,
            severity=Severity.NOTE,
            what=what,
            count=len(rows),
            examples=table.examples(rows, (remarks[row] for row in rows)),
            advice="check whether they belong to the data",
        )


def robust_distance(values: NDArray[np.floating], least: float) -> NDArray[np.float64]:
    """Distance of each value from the median, in standard deviations. These are estimated from the median absolute
    deviation and are at least `least`."""
    away = np.abs(values - np.median(values)).astype(np.float64)
    deviation = max(float(np.median(away)) * _MAD_TO_DEVIATION, least)
    distance: NDArray[np.float64] = away / deviation
    return distance
