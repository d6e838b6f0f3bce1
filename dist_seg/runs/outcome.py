"""How a run ended, as `outcome.json` says it."""

import json
from pathlib import Path

from dist_seg.storage.files import write_whole


def exit_code(outcome_file: Path, unwritten: str) -> int:
    """The failed run's, by its outcome; where no rank came to write one, this is done here with that reason."""
    outcome = json.loads(outcome_file.read_text())
    if "exit_code" not in outcome:
        outcome = {"outcome": "failed", "exit_code": 1, "step": -1, "reason": unwritten}
        write_whole(outcome_file, json.dumps(outcome, indent=1) + "\n")
    return int(outcome["exit_code"]) or 1
