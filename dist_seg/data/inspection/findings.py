"""Findings: the kinds of trouble in a data set, with examples."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

MAX_EXAMPLES = 1000
"""Examples that a finding keeps and writes as JSON. Its count includes all cases."""


class Severity(IntEnum):
    """How bad a finding is."""

    NOTE = 0
    """Worth a look; often correct."""
    WARNING = 1
    """Will most likely spoil a training or a score."""
    ERROR = 2
    """Spoils a training or a score."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A sample, by the number of its shard in its split and its number in the shard."""

    split: str
    key: str
    shard: int
    index: int

    def __str__(self) -> str:
        return f"{self.split}/{self.key}"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One case of a finding."""

    places: tuple[Place, ...]
    """One sample, or two samples that are alike."""
    what: str = ""

    def __str__(self) -> str:
        text = " = ".join(map(str, self.places))
        return f"{text} ({self.what})" if self.what else text


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of trouble, in one split, between two, or in all."""

    kind: str
    """A stable name, such as `leak`."""
    severity: Severity
    what: str
    """A sentence that continues the count."""
    count: int
    examples: tuple[Example, ...]
    """At most `MAX_EXAMPLES`, the worst first."""
    advice: str
    splits: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "severity": self.severity.name.lower(),
            "splits": list(self.splits),
            "count": self.count,
            "what": self.what,
            "advice": self.advice,
            "examples": [
                {"samples": [str(place) for place in example.places], "what": example.what} for example in self.examples
            ],
        }


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: -finding.severity))
