"""How much of its time does a run train if it is killed again and again, and how much does the formula predict?

    python benchmarks/goodput.py [--minutes 10] [--mtbf 120] [--json FILE]

Trains the synthetic recipe on two processes with `checkpoint.interval_steps=auto`. All its processes are killed
(SIGKILL) at random times, on average every `--mtbf` seconds (exponentially distributed, as the formula assumes), and
the same command is started again at once. Useful time is the time that the steps which were not repeated would take
without saves: their wall time of training, minus the time by which saves slowed them. The formula is Daly's (2006),
with values measured in the same run: the interval, the cost of a save, the time from a kill to the first step after it,
and the number of failures. Prints both, and what the rest of the time was spent on.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_seg.config.recipes import recipe_path
from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.packing.pack import pack
from dist_seg.engine.checkpoint_interval import expected_goodput
from dist_seg.telemetry.accounting import time_account
from dist_seg.telemetry.events import CheckpointIntervalChosen, CheckpointSaved, StepDone
from dist_seg.telemetry.jsonl import Record, read_log, without_superseded


@dataclass(frozen=True, kw_only=True)
class Times:
    """Wall-clock times, as from `time.time`."""

    begin: float
    end: float
    kills: Sequence[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--mtbf", type=float, default=120.0, help="mean seconds between failures (%(default)s)")
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="seed of the times of failure")
    parser.add_argument("--keep", type=Path, default=None, help="keep the run folder here")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = (options.keep or Path(folder)) / "run"
        pack(SyntheticSource(num_train=480, num_val=16, height=128, width=128), Path(folder) / "shards")
        times = _train(run, Path(folder), options)
        figures = _figures(read_log(run), times, options.mtbf)
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _train(run: Path, folder: Path, options: argparse.Namespace) -> Times:
    chance = random.Random(options.seed)
    settings = [
        f"data.shards={folder / 'shards'}",
        f"run.dir={run}",
        "train.max_steps=1000000",
        "train.eval_interval_steps=0",
        "checkpoint.interval_steps=auto",
        f"checkpoint.mtbf_s={options.mtbf}",
    ]
    command = [sys.executable, "-m", "dist_seg", "train", str(recipe_path("synthetic.yaml")), *settings]
    begin = time.time()
    end, kills = begin + options.minutes * 60, []
    process = None
    try:
        while time.time() < end:
            with (folder / "output.txt").open("ab") as output:
                process = subprocess.Popen([*command, "--nproc", str(options.nproc)], stdout=output, stderr=output)
            # A failure can also hit a start-up.
            failure = min(end, time.time() + chance.expovariate(1 / options.mtbf))
            while time.time() < failure:
                if process.poll() is not None:
                    raise RuntimeError((folder / "output.txt").read_text()[-4000:])
                time.sleep(0.05)
            kills.append(time.time())
            _kill(process.pid)
            process.wait()
        return Times(begin=begin, end=kills[-1], kills=kills[:-1])
    finally:
        if process is not None and process.poll() is None:
            _kill(process.pid)
            process.wait()


def _kill(root: int) -> None:
    """Kills a process and all its descendants. They are stopped first, so that none starts another in the meantime."""
    children: dict[int, list[int]] = defaultdict(list)
    os.kill(root, signal.SIGSTOP)
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            children[int(status.read_text().rpartition(")")[2].split()[1])].append(int(status.parent.name))
        except OSError:
            continue  # It has ended.
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        waiting += children[pid]
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _figures(log: Sequence[Record], times: Times, mtbf_s: float) -> dict[str, object]:
    log = [record for record in log if record.time_s <= times.end]
    steps = [record for record in log if isinstance(record.event, StepDone)]
    standing = [record.event for record in without_superseded(log) if isinstance(record.event, StepDone)]
    choices = [record.event for record in log if isinstance(record.event, CheckpointIntervalChosen)]
    saves = [record.event for record in log if isinstance(record.event, CheckpointSaved)]
    wall_s = times.end - times.begin
    interval_s = statistics.mean(choice.interval_s for choice in choices)
    cost_s = statistics.mean(choice.cost_s for choice in choices)
    slowdown_s = len(saves) * max(0.0, cost_s - statistics.mean(save.stall_s for save in saves))
    useful_s = sum(step.step_s for step in standing) - slowdown_s
    all_steps_s = sum(record.event.step_s for record in steps if isinstance(record.event, StepDone))
    restarts_s = _restarts_s(steps, times)
    first_start_s = _first_step(steps, times.begin) - times.begin
    restart_s = statistics.mean(restarts_s) if restarts_s else 0.0
    failures = len(times.kills)
    expected = expected_goodput(interval_s, cost_s, restart_s, (wall_s - first_start_s) / max(1, failures))
    # The first start-up was not caused by a failure.
    expected *= 1 - first_start_s / wall_s
    account = time_account(log)
    return {
        "minutes": wall_s / 60,
        "failures": failures,
        "mean_s_between_failures_asked": mtbf_s,
        "goodput": useful_s / wall_s,
        "goodput_by_formula": expected,
        "difference_points": 100 * (useful_s / wall_s - expected),
        "steps_that_stand": len(standing),
        "steps_lost": len(steps) - len(standing),
        "interval_s": interval_s,
        "save_cost_s": cost_s,
        "saves": len(saves),
        "restart_s": {"mean": restart_s, "all": [round(value, 1) for value in restarts_s]},
        "first_start_s": first_start_s,
        "lost_s": {
            "restarts": sum(restarts_s) + first_start_s,
            "steps done again": all_steps_s - sum(step.step_s for step in standing),
            "saves": cost_s * len(saves),
        },
        "account_of_the_report": {part: round(seconds, 1) for part, seconds in account.seconds.items()},
        "goodput_of_the_report": account.goodput,
    }


def _first_step(steps: Sequence[Record], after: float) -> float:
    """Start of the first step after a given time; the end of the run's last step if there is none."""
    for record in steps:
        assert isinstance(record.event, StepDone)
        if record.time_s - record.event.step_s > after:
            return record.time_s - record.event.step_s
    return max(record.time_s for record in steps)


def _restarts_s(steps: Sequence[Record], times: Times) -> list[float]:
    """Seconds from every kill to the first step after it, or to the next kill."""
    found = []
    for kill, following in zip(times.kills, [*times.kills[1:], times.end], strict=True):
        began = _first_step(steps, kill)
        found.append((following if began <= kill or began > following else began) - kill)
    return found


if __name__ == "__main__":
    main()
