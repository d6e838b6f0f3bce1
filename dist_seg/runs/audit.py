"""Compares two runs by the digests in their logs: from which step on they differ, and in what."""

from dataclasses import dataclass
from pathlib import Path

from dist_seg.errors import UserError
from dist_seg.runtime.plural import count_of
from dist_seg.telemetry.events import DigestTaken, RunStarted
from dist_seg.telemetry.jsonl import read_events, read_log


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """The comparison of two runs by their digests."""

    compared_steps: int
    """Steps with a digest in both runs."""
    weights_compared: bool
    """Weights are compared if both runs used the same engine and number of ranks. Others sum in another order."""
    batch_differs_at: int | None
    weights_differ_at: int | None

    @property
    def agrees(self) -> bool:
        return self.compared_steps > 0 and self.batch_differs_at is None and self.weights_differ_at is None


def audit(run_a: Path, run_b: Path) -> AuditResult:
    """Compares the runs in two folders. Raises UserError if one has no digests."""
    digests_a, digests_b = _digests(run_a), _digests(run_b)
    common = sorted(digests_a.keys() & digests_b.keys())
    weights_compared = len(_settings(run_a) | _settings(run_b)) == 1
    batch = next((step for step in common if digests_a[step].batch != digests_b[step].batch), None)
    weights = next((step for step in common if digests_a[step].weights != digests_b[step].weights), None)
    return AuditResult(
        compared_steps=len(common),
        weights_compared=weights_compared,
        batch_differs_at=batch,
        weights_differ_at=weights if weights_compared else None,
    )


def describe(result: AuditResult) -> str:
    """The result as text."""
    if not result.compared_steps:
        return "no step has a digest in both runs: they cannot be compared"
    lines = [f"{count_of(result.compared_steps, 'step')} compared"]
    lines.append(
        "batches agree" if result.batch_differs_at is None else f"batches differ from step {result.batch_differs_at} on"
    )
    if not result.weights_compared:
        lines.append("weights not compared: the runs had different engines or numbers of ranks")
    elif result.weights_differ_at is None:
        lines.append("weights agree to the bit")
    else:
        lines.append(f"weights differ from step {result.weights_differ_at} on")
    return "\n".join(lines)


def _digests(run: Path) -> dict[int, DigestTaken]:
    found = {record.event.step: record.event for record in read_events(run) if isinstance(record.event, DigestTaken)}
    if not found:
        raise UserError(
            f"{run}: no digests in its log; give the folder of a run with telemetry.digest_interval_steps above 0"
        )
    return found


def _settings(run: Path) -> set[tuple[str, int]]:
    """The engines and numbers of ranks, which decide the order of summation."""
    return {
        (record.event.engine, record.event.world_size)
        for record in read_log(run)
        if isinstance(record.event, RunStarted)
    }
