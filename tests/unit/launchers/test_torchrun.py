"""What the command line makes of its ranks' ends, and of options that go together."""

import json
from pathlib import Path

import pytest

from dist_seg.cli.main import main
from dist_seg.errors import DataError
from dist_seg.runs.outcome import exit_code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-restarts", "2"], "--max-restarts needs --nproc"),
        (["--nproc", "2", "--max-restarts", "-1"], "--max-restarts -1: must be 0 or more"),
    ],
)
def test_restarts_that_cannot_be_are_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert main(["train", "data.shards=nowhere", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_the_outcome_that_a_rank_has_written_gives_the_exit_code(tmp_path: Path) -> None:
    outcome = tmp_path / "outcome.json"
    outcome.write_text(json.dumps({"outcome": "preempted", "exit_code": 143}))
    assert exit_code(outcome, "killed: rank 0 by SIGKILL") == 143
    assert json.loads(outcome.read_text())["outcome"] == "preempted"


def test_the_outcome_of_ranks_that_were_all_killed_is_written_for_them(tmp_path: Path) -> None:
    outcome = tmp_path / "outcome.json"
    outcome.write_text(json.dumps({"outcome": "running"}))
    assert exit_code(outcome, "killed: rank 0 by SIGKILL") == 1
    written = json.loads(outcome.read_text())
    assert (written["outcome"], written["reason"]) == ("failed", "killed: rank 0 by SIGKILL")


def test_an_outcome_that_is_damaged_is_named(tmp_path: Path) -> None:
    outcome = tmp_path / "outcome.json"
    outcome.write_text('{"exit_code": "none"}')
    with pytest.raises(DataError, match=r"outcome\.json: exit_code is 'none'"):
        exit_code(outcome, "killed: rank 0 by SIGKILL")
