"""Finds masks that do not lie on their images, and masks without content."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.encoded import TargetKind
from dist_seg.data.inspection.findings import Finding, Severity
from dist_seg.data.inspection.samples.alignment import REACH, TURN_NAMES, centre, peak, shrinkage, standardised
from dist_seg.data.inspection.samples.look import Looked
from dist_seg.data.inspection.table import SampleTable

# Fits are in robust standard deviations. Thresholds were set on the training splits of CamVid, COCO and nuclei: see
# docs/measured.md.
_BETTER_BY = 1.5
_VOTE_BETTER_BY = 3.0
_REAL_PEAK = 4.5
"""Outlines of another image usually fit less than this, even at their best shift."""
_TURNED_FIT = 4.0
_NO_FIT = 1.5
_USUAL_FIT = 4.0
"""If the masks of a split usually fit worse than this, a mask that fits badly says nothing."""
_MIN_VOTES = 5
_SAME_SHIFT = 2.0
"""Pixels of the image at the size that was looked at."""
_NEARLY_ALL = 0.95
MISFIT = "misfit"
"""Kind of the finding for masks that fit their images in no way that was tried."""


def mask_findings(table: SampleTable, looked: Mapping[str, Looked], kind: TargetKind) -> Iterator[Finding]:
    """Findings for every split."""
    for split in table.splits:
        yield from _alignment(table, split, looked[split])
        yield from _emptiness(table, split, kind)


def _alignment(table: SampleTable, split: str, looked: Looked) -> Iterator[Finding]:
    rows = table.rows(split)
    rows = rows[~np.isnan(table.records["fit"][rows])]
    if not len(rows):
        return
    records = table.records[rows]
    scale = np.array([shrinkage(int(r["height"]), int(r["width"])) for r in records])
    mean = looked.surface / looked.num_fits
    vote = _vote(mean) if len(rows) >= _MIN_VOTES else (0, 0)
    if vote != (0, 0):
        down, right = (offset * float(np.median(scale)) for offset in vote)
        yield Finding(
            kind="shifted_split",
            severity=Severity.WARNING,
            what=f"masks of {split} as a whole lie too far {_direction(down, right)} on their images",
            count=len(rows),
            examples=(),
            advice="look for an offset, a crop or a resize that was applied only to images or only to masks",
            splits=(split,),
        )
    fit, best, turned = records["fit"], records["best"], records["turned"]
    shift = records["shift"] / scale[:, None]
    off = np.abs(shift - np.array(vote)).max(axis=1)
    inside = np.abs(shift).max(axis=1) < REACH - 0.5  # at the edge of the search there may be no peak
    is_turned = (turned >= _TURNED_FIT) & (turned > best)
    is_shifted = ~is_turned & inside & (off > _SAME_SHIFT) & (best >= _REAL_PEAK) & (best - fit > _BETTER_BY)
    is_other = ~is_turned & ~is_shifted & (fit < _NO_FIT) & (vote == (0, 0)) & (float(mean.max()) >= _USUAL_FIT)
    yield from _suspects(table, split, rows[is_turned], "turned", "look turned against their images", turned[is_turned])
    yield from _suspects(
        table, split, rows[is_shifted], "shifted", "look shifted against their images", (best - fit)[is_shifted]
    )
    yield from _suspects(
        table, split, rows[is_other], MISFIT, "have outlines where their images have none", -fit[is_other]
    )


def _vote(mean: NDArray[np.float64]) -> tuple[int, int]:
    """Common offset (down, right) of a split's masks, in pixels of the images at the size that was looked at."""
    surface = standardised(mean)
    down, right = peak(surface)
    if max(abs(down), abs(right)) <= 1 or float(surface.max()) - centre(surface) < _VOTE_BETTER_BY:
        return 0, 0
    return -down, -right


_ADVICE = {
    "turned": "compare images and masks before packing: was only one of them mirrored or rotated?",
    "shifted": "look at them on the sheet of suspects, and fix the masks or leave them out",
    MISFIT: "look at them on the sheet of suspects: are these masks of other images, or careless outlines?",
}


def _suspects(
    table: SampleTable, split: str, rows: NDArray[np.intp], kind: str, what: str, badness: NDArray[np.float32]
) -> Iterator[Finding]:
    if not len(rows):
        return
    rows = rows[np.argsort(-badness, kind="stable")]
    yield Finding(
        kind=kind,
        severity=Severity.WARNING,
        what=f"masks of {split} {what}",
        count=len(rows),
        examples=table.examples(rows, (_how(kind, table.records[row]) for row in rows)),
        advice=_ADVICE[kind],
        splits=(split,),
    )


def _how(kind: str, record: NDArray[np.void]) -> str:
    match kind:
        case "turned":
            return TURN_NAMES[int(record["turn"])]
        case "shifted":
            down, right = record["shift"].tolist()
            return f"too far {_direction(down, right)}"
        case _:
            return f"fit {float(record['fit']):.1f}"


def _direction(down: float, right: float) -> str:
    """A text such as `left by 8 px and down by 2 px`."""
    sideways = f"{'right' if right > 0 else 'left'} by {abs(right):.0f} px" if round(right) else ""
    upright = f"{'down' if down > 0 else 'up'} by {abs(down):.0f} px" if round(down) else ""
    return " and ".join(part for part in (sideways, upright) if part)


def _emptiness(table: SampleTable, split: str, kind: TargetKind) -> Iterator[Finding]:
    if kind.has_objects:
        return  # `object_checks` reports images without objects
    rows = table.rows(split)
    ignored, num_present = table.records["ignored"][rows], table.present[rows].sum(axis=1)
    nothing = ignored == 1
    yield from _of(
        table,
        split,
        rows[nothing],
        "nothing_known",
        Severity.WARNING,
        "masks of {} have only ignored pixels",
        "label them or leave them out: a model learns nothing from them",
    )
    nearly = ~nothing & (ignored >= _NEARLY_ALL)
    yield from _of(
        table,
        split,
        rows[nearly],
        "nearly_ignored",
        Severity.WARNING,
        "masks of {} are ignored except for 5% or less",
        "check whether ignored ids should be classes",
        "{:.1%} ignored",
    )
    if kind.overlaps:
        yield from _of(
            table,
            split,
            rows[~nothing & (num_present == 0)],
            "no_label",
            Severity.NOTE,
            "masks of {} have no label",
            "correct if there is nothing to see",
        )
    else:
        one = ~nothing & (num_present == 1)
        yield from _of(
            table,
            split,
            rows[one],
            "one_class",
            Severity.NOTE,
            "masks of {} have only one class",
            "correct for images of background; look at some",
        )


def _of(
    table: SampleTable,
    split: str,
    rows: NDArray[np.intp],
    kind: str,
    severity: Severity,
    what: str,
    advice: str,
    remark: str = "",
) -> Iterator[Finding]:
    if len(rows):
        rows = table.by_key(rows)
        ignored = table.records["ignored"][rows]
        yield Finding(
            kind=kind,
            severity=severity,
            what=what.format(split),
            count=len(rows),
            examples=table.examples(rows, (remark.format(float(share)) for share in ignored)),
            advice=advice,
            splits=(split,),
        )
