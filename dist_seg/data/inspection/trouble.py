"""Looks at a data set's samples and reports what is wrong with them."""

import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dist_seg.data.inspection.checks.class_checks import class_findings, cooccurrence
from dist_seg.data.inspection.checks.image_checks import image_findings
from dist_seg.data.inspection.checks.leaks import duplicate_findings
from dist_seg.data.inspection.checks.mask_checks import MISFIT, mask_findings
from dist_seg.data.inspection.checks.object_checks import object_findings
from dist_seg.data.inspection.checks.owners import with_owners
from dist_seg.data.inspection.duplicates.find import Traits, find_duplicates
from dist_seg.data.inspection.duplicates.sequences import name_in_split
from dist_seg.data.inspection.findings import MAX_EXAMPLES, Example, Finding, Severity, worst_first
from dist_seg.data.inspection.samples.look import Looked, look_at_samples
from dist_seg.data.inspection.table import SampleTable
from dist_seg.data.inspection.workers import Workers
from dist_seg.data.shards.manifest import Manifest
from dist_seg.data.shards.opened import OpenedData
from dist_seg.runtime.plural import count_of

Progress = Callable[[int, int], None]

_NUM_EXAMPLES = 3
_WIDTH = 116
_MOST_CLASSES = 20
"""Classes up to which the table of classes that occur together is shown: larger ones are too wide to read."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """The findings for a packed data set."""

    class_names: tuple[str, ...]
    looked_at: dict[str, tuple[int, int]]
    """For every split the number of samples that were looked at, and of all samples."""
    findings: tuple[Finding, ...]
    """The worst first."""
    cooccurrence: dict[str, tuple[tuple[int, ...], ...]]
    """For every split (classes, classes) the number of samples with both classes; empty if no sample was looked at."""

    @property
    def worst(self) -> Severity | None:
        return max((finding.severity for finding in self.findings), default=None)

    def to_json(self) -> dict[str, object]:
        return {
            "looked_at": {name: {"samples": some, "of": total} for name, (some, total) in self.looked_at.items()},
            "findings": [finding.to_json() for finding in self.findings],
            "cooccurrence": self.cooccurrence,
        }

    def to_text(self) -> str:
        """For a terminal: the table of classes that occur together, and the findings, the worst first."""
        parts = [*_cooccurrence(self), _looked_at(self), *map(_finding_text, self.findings)]
        return "\n\n".join(parts) + "\n"


def find_trouble(
    data: OpenedData,
    *,
    split: str | None = None,
    limit: int | None = None,
    workers: int = 1,
    looking: Progress | None = None,
    searching: Progress | None = None,
    comparing: Progress | None = None,
) -> Trouble:
    """Look once at every sample of the data set, or of one split.

    limit: number of samples of each split to look at, evenly spread over it; None for all, 0 to check only the
    manifest. Memory grows by about 5 kB per sample. The callbacks get the number done and the total: `looking` samples,
    then `searching` hashes compared with all others, then `comparing` pairs of images. Raises `DataError` for a split
    that does not exist, and `StorageError`.
    """
    manifest = data.manifest
    chosen = {split: manifest.split(split)} if split else dict(manifest.splits)
    totals = {name: part.num_samples for name, part in chosen.items()}
    if limit == 0:
        return Trouble(
            class_names=manifest.class_names,
            looked_at={name: (0, total) for name, total in totals.items()},
            findings=worst_first(class_findings(manifest, tuple(chosen), None)),
            cooccurrence={},
        )
    with Workers(workers) as pool:
        looked = look_at_samples(data, chosen, limit=limit, workers=pool, progress=looking)
        table = SampleTable.of(looked, manifest.num_classes)
        records = table.records
        traits = Traits(
            keys=[name_in_split(key, table.split_of(row)) for row, key in enumerate(table.keys)],
            split=table.split,
            digests=records["digest"],
            thumbnails=records["thumbnail"],
            words=records["words"],
            mirrored=records["mirrored"],
        )
        duplicates = find_duplicates(
            traits,
            threads=pool.count,
            spread=pool.map,
            searching=searching,
            comparing=comparing,
        )
    findings = [*_unreadable(looked), *duplicate_findings(table, duplicates), *_checks(manifest, table, looked)]
    findings = [with_owners(data, f) if f.kind == MISFIT else f for f in findings]
    return Trouble(
        class_names=manifest.class_names,
        looked_at={name: (len(found.keys) + len(found.unreadable), totals[name]) for name, found in looked.items()},
        findings=worst_first(findings),
        cooccurrence={name: tuple(map(tuple, cooccurrence(table, name).tolist())) for name in chosen},
    )


def _checks(manifest: Manifest, table: SampleTable, looked: dict[str, Looked]) -> list[Finding]:
    return [
        *mask_findings(table, looked, manifest.target_kind),
        *class_findings(manifest, table.splits, table),
        *image_findings(table),
        *(object_findings(table) if manifest.target_kind.has_objects else ()),
    ]


def _unreadable(looked: dict[str, Looked]) -> list[Finding]:
    return [
        Finding(
            kind="unreadable",
            severity=Severity.ERROR,
            what=f"samples of {name} are damaged or cannot be decoded",
            count=len(found.unreadable),
            examples=tuple(
                Example(places=(sample.place,), what=sample.reason) for sample in found.unreadable[:MAX_EXAMPLES]
            ),
            advice="see what `dist-seg verify` says, and pack the data again",
            splits=(name,),
        )
        for name, found in looked.items()
        if found.unreadable
    ]


def _looked_at(trouble: Trouble) -> str:
    some = ", ".join(
        f"{count} of {count_of(total, 'sample')} of {name}" for name, (count, total) in trouble.looked_at.items()
    )
    counts = Counter(finding.severity for finding in trouble.findings)
    found = [
        count_of(counts[severity], severity.name.lower())
        for severity in sorted(Severity, reverse=True)
        if counts[severity]
    ]
    return f"looked at {some}: {', '.join(found) if found else 'nothing found'}"


def _finding_text(finding: Finding) -> str:
    head = f"{finding.severity.name.lower():8s}{finding.count:6d}  "
    lines = textwrap.wrap(finding.what, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    for example in finding.examples[:_NUM_EXAMPLES]:
        lines.append(" " * len(head) + str(example))
    if finding.examples and finding.count > _NUM_EXAMPLES and len(finding.examples) > _NUM_EXAMPLES:
        lines[-1] += ", ..."
    lines += textwrap.wrap(
        finding.advice, _WIDTH, initial_indent=" " * len(head) + "> ", subsequent_indent=" " * (len(head) + 2)
    )
    return "\n".join(lines)


def _cooccurrence(trouble: Trouble) -> Iterator[str]:
    """A triangle for every split, with classes as rows and columns."""
    if len(trouble.class_names) > _MOST_CLASSES:
        return
    left = max(len(name) for name in trouble.class_names)
    for split, counts in trouble.cooccurrence.items():
        cell = max(len(str(max(map(max, counts), default=0))), 2)
        lines = [f"samples of {split} with both classes"]
        for i, name in enumerate(trouble.class_names):
            cells = " ".join(f"{counts[i][j] or '-':>{cell}}" for j in range(i + 1))
            lines.append(f"{i:3d}  {name:{left}}  {cells}")
        ids = " ".join(f"{j:>{cell}}" for j in range(len(trouble.class_names)))
        lines.append(f"{'':3}  {'':{left}}  {ids}")
        yield "\n".join(lines)
