"""Turns duplicates into findings: across splits they make scores meaningless, within a split images count twice."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from dist_seg.data.inspection.duplicates.find import Duplicate, Duplicates
from dist_seg.data.inspection.findings import MAX_EXAMPLES, Example, Finding, Severity
from dist_seg.data.inspection.table import SampleTable

_LEAK = "take them out of one of the splits: a score on training images says nothing"
_VIDEO_LEAK = "split by whole videos (pack folder --val SHARE --group-by REGEX): otherwise scores are too good"
_TWICE = "harmless if intended; otherwise leave one of each pair out, because such images count twice"


def duplicate_findings(table: SampleTable, found: Duplicates) -> Iterator[Finding]:
    """One finding for each kind of pair and the splits that it lies in."""
    yield from _grouped(
        table, found.same_pixels, "same_pixels", Severity.ERROR, "pairs of images with the same pixels", _LEAK
    )
    yield from _grouped(table, found.copies, "copies", Severity.ERROR, "pairs of images that look like copies", _LEAK)
    yield from _grouped(
        table, found.frames, "frames", Severity.WARNING, "pairs of frames of one sequence that look alike", _VIDEO_LEAK
    )


def _grouped(
    table: SampleTable, pairs: Sequence[Duplicate], kind: str, severity: Severity, what: str, advice: str
) -> Iterator[Finding]:
    of_splits: dict[tuple[str, ...], list[Duplicate]] = defaultdict(list)
    for pair in pairs:
        names = dict.fromkeys(table.split_of(row) for row in (pair.first, pair.second))
        of_splits[tuple(names)].append(pair)
    for splits, some in of_splits.items():
        across = len(splits) > 1
        yield Finding(
            kind=f"{kind}_{'across' if across else 'within'}",
            severity=severity if across else Severity.NOTE,
            what=f"{what}, {'one in ' + splits[0] + ', one in ' + splits[1] if across else 'both in ' + splits[0]}",
            count=len(some),
            examples=tuple(_example(table, pair) for pair in some[:MAX_EXAMPLES]),
            advice=advice if across else _TWICE,
            splits=splits,
        )


def _example(table: SampleTable, pair: Duplicate) -> Example:
    remark = "the same pixels" if pair.similarity == 1 else f"correlation {pair.similarity:.2f}"
    return Example(
        places=(table.place(pair.first), table.place(pair.second)),
        what=f"mirrored, {remark}" if pair.mirrored else remark,
    )
