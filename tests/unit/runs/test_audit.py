"""Where two runs part, by the digests in their logs."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from dist_seg.cli.main import main
from dist_seg.errors import UserError
from dist_seg.runs.audit import AuditResult, audit, describe
from dist_seg.telemetry.events import DigestTaken, RunStarted
from dist_seg.telemetry.jsonl import JsonLinesSink

AGREEING = {2: ("b2", "w2"), 4: ("b4", "w4"), 6: ("b6", "w6")}


def write_run(folder: Path, digests: Mapping[int, tuple[str, str]], *, world_size: int = 1, start: int = 0) -> Path:
    """Appends to the log of a run one start and its digests: step to (batch, weights)."""
    log = JsonLinesSink(folder, rank=0)
    log.emit(
        RunStarted(
            step=start,
            max_steps=6,
            steps_per_epoch=3,
            world_size=world_size,
            global_batch=4,
            micro_batch=2,
            device="cpu",
            class_names=("road",),
            manifest_hash="0",
            versions={},
            startup_s=0.0,
        )
    )
    for step, (batch, weights) in digests.items():
        log.emit(DigestTaken(step=step, batch=batch, weights=weights))
    log.close()
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", AGREEING)


def test_equal_digests_agree(run: Path, tmp_path: Path) -> None:
    assert audit(run, write_run(tmp_path / "other", AGREEING)) == AuditResult(
        compared_steps=3, weights_compared=True, batch_differs_at=None, weights_differ_at=None
    )


def test_equal_batches_with_other_weights_differ_from_the_first_such_step(run: Path, tmp_path: Path) -> None:
    result = audit(run, write_run(tmp_path / "other", {**AGREEING, 4: ("b4", "x"), 6: ("b6", "y")}))
    assert (result.batch_differs_at, result.weights_differ_at, result.agrees) == (None, 4, False)


def test_other_batches_differ_from_the_first_such_step(run: Path, tmp_path: Path) -> None:
    result = audit(run, write_run(tmp_path / "other", {**AGREEING, 4: ("x", "w4"), 6: ("y", "w6")}))
    assert (result.batch_differs_at, result.weights_differ_at, result.agrees) == (4, None, False)


def test_only_steps_with_a_digest_in_both_runs_are_compared(run: Path, tmp_path: Path) -> None:
    result = audit(run, write_run(tmp_path / "other", {3: ("x", "y"), 6: ("b6", "w6")}))
    assert (result.compared_steps, result.agrees) == (1, True)


def test_runs_without_a_common_step_do_not_agree(run: Path, tmp_path: Path) -> None:
    result = audit(run, write_run(tmp_path / "other", {3: ("b3", "w3")}))
    assert (result.compared_steps, result.agrees) == (0, False)
    assert "they cannot be compared" in describe(result)


def test_weights_of_other_numbers_of_ranks_are_not_compared(run: Path, tmp_path: Path) -> None:
    result = audit(run, write_run(tmp_path / "other", {6: ("b6", "x")}, world_size=2))
    assert (result.weights_compared, result.weights_differ_at, result.agrees) == (False, None, True)


def test_weights_are_not_compared_where_a_run_was_resumed_on_another_number_of_ranks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, {2: ("b2", "w2")})
        write_run(tmp_path / name, {4: ("b4", name)}, start=2, world_size=2)
    result = audit(tmp_path / "a", tmp_path / "b")
    assert (result.weights_compared, result.agrees) == (False, True)


def test_what_a_resumed_run_did_again_counts_as_it_was_done_last(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", {2: ("b2", "w2"), 4: ("lost", "lost")})
    assert audit(run, write_run(other, {4: ("b4", "w4"), 6: ("b6", "w6")}, start=2)).agrees


def test_a_run_without_digests_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other: no digests"):
        audit(run, write_run(tmp_path / "other", {}))


@pytest.mark.parametrize(
    ("other", "code", "words"),
    [
        (AGREEING, 0, "weights agree to the bit"),
        ({**AGREEING, 4: ("b4", "x")}, 1, "batches agree\nweights differ from step 4 on"),
        ({**AGREEING, 4: ("x", "w4")}, 1, "batches differ from step 4 on"),
        ({3: ("b3", "w3")}, 1, "they cannot be compared"),
        ({}, 2, ""),
    ],
)
def test_exit_code_and_words_of_the_command(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    other: Mapping[int, tuple[str, str]],
    code: int,
    words: str,
) -> None:
    write_run(tmp_path / "other", other)
    assert main(["audit", str(run), str(tmp_path / "other")]) == code
    assert words in capsys.readouterr().out
