"""The findings for a terminal."""

import textwrap
from collections import Counter
from collections.abc import Iterator

from dist_seg.data.inspection.findings import Finding, Severity
from dist_seg.data.inspection.trouble import Trouble

_NUM_EXAMPLES = 3
_WIDTH = 116
_MOST_CLASSES = 20
"""Of a table of which classes are together; with more it would be too wide to read."""


def trouble_text(trouble: Trouble) -> str:
    """The table of which classes are together, and the findings, the worst first."""
    parts = [*_cooccurrence(trouble), _looked_at(trouble)]
    parts += [_finding_text(finding) for finding in trouble.findings]
    return "\n\n".join(parts) + "\n"


def _looked_at(trouble: Trouble) -> str:
    some = ", ".join(f"{count} of {total} samples of {name}" for name, (count, total) in trouble.looked_at.items())
    counts = Counter(finding.severity for finding in trouble.findings)
    found = [
        f"{counts[severity]} {severity.name.lower()}{'s' * (counts[severity] != 1)}"
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
    """Of every split a triangle: rows and columns are classes."""
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
