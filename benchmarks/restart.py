"""How long does a run take from a kill to its next new step? How does its start-up compare with a bare script's?

    python -m benchmarks.restart [--repeats 5] [--folder DIR] [--json FILE]

Packs the synthetic data set, trains `configs/synthetic.yaml` on two ranks with a checkpoint every 5 steps, kills every
process with SIGKILL a few steps after a checkpoint, and starts the same command again, several times. Two times are
measured from the kill: to the end of the first step after the restart, and to the end of the first step that had not
been trained before. The peer runs after each restart, so that both see the same load on the machine: a bare script
under torchrun that imports torch, torchvision, timm and DALI (if it is installed), builds the same model and forms a
group of two. Both start-ups count from the start of rank 0's process; ours ends when the checkpoint is loaded and the
first step can begin. Prints median, smallest and largest of the repeats; for parts, the medians.
"""

import argparse
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dist_seg.config.load import load_config
from dist_seg.config.recipes import recipe_path
from dist_seg.telemetry.events import CheckpointSaved, RunStarted, StepDone
from dist_seg.telemetry.jsonl import Record, read_log

_INTERVAL_STEPS, _BEYOND_STEPS, _LIMIT_S = 5, 3, 300.0
_PEER = """
import importlib.util, json, sys
import torch, torchvision, timm
import torch.distributed as dist
if importlib.util.find_spec("nvidia.dali"):
    from nvidia.dali import fn, pipeline_def, types
from dist_seg.config.schema import ModelConfig
from dist_seg.models.build import build_model
from dist_seg.runtime.startup import process_age_s
dist.init_process_group("gloo")
build_model(ModelConfig(**json.loads(sys.argv[1])), 6).to(memory_format=torch.channels_last)
dist.barrier()
if dist.get_rank() == 0:
    print("ready after", process_age_s(), flush=True)
dist.destroy_process_group()
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Restart:
    """Seconds since a kill."""

    first_step_s: float
    new_step_s: float
    steps_again: int
    startup_s: float
    parts: Mapping[str, float]
    """Up to the first step; they sum to `first_step_s`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="folder for the run (a temporary one)")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        figures = _measure(Path(name), options.repeats)
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _measure(folder: Path, repeats: int) -> dict[str, object]:
    pack = ["pack", "synthetic", str(folder / "data"), "--workers", "2"]
    subprocess.run([sys.executable, "-m", "dist_seg", *pack], check=True, capture_output=True)
    peer = folder / "peer.py"
    peer.write_text(_PEER)
    restarts, peers = [], []
    killed_s, last_step = time.time(), 0
    dying_s = 0.0
    process = _train(folder)
    try:
        for round_number in range(repeats + 1):
            if round_number:  # The first start is not a restart.
                restarts.append(_follow(process, folder / "run", killed_s, dying_s, last_step))
            _beyond_a_checkpoint(process, folder / "run")
            dying_s = _kill(process)
            last_step = _last_step(folder / "run")
            if round_number:
                peers.append(_peer_s(peer))
            if round_number < repeats:
                # The peer has run since the kill; its time is not counted.
                killed_s = time.time() - dying_s
                process = _train(folder)
    finally:
        if process.poll() is None:
            _kill(process)
    ratios = [restart.startup_s / peer_s for restart, peer_s in zip(restarts, peers, strict=True)]
    return {
        "repeats": repeats,
        "kill_to_new_step_s": _spread([restart.new_step_s for restart in restarts]),
        "kill_to_first_step_s": _spread([restart.first_step_s for restart in restarts]),
        "steps_done_again": [restart.steps_again for restart in restarts],
        "startup_s": _spread([restart.startup_s for restart in restarts]),
        "bare_startup_s": _spread(peers),
        "startup_ratio": _spread(ratios),
        "parts_to_first_step_s": {
            part: round(statistics.median(restart.parts[part] for restart in restarts), 2) for part in restarts[0].parts
        },
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {name: round(of(values), 2) for name, of in (("median", statistics.median), ("min", min), ("max", max))}


def _train(folder: Path) -> subprocess.Popen[bytes]:
    settings = [f"data.shards={folder / 'data'}", f"run.dir={folder / 'run'}"]
    settings += [f"checkpoint.interval_steps={_INTERVAL_STEPS}", "train.eval_interval_steps=0"]
    command = [sys.executable, "-m", "dist_seg", "train", str(recipe_path("synthetic.yaml")), *settings, "--nproc", "2"]
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def _kill(process: "subprocess.Popen[bytes]") -> float:
    """Kills a launcher and all its descendants; returns the seconds until none of them is left."""
    family = _with_descendants(process.pid)
    begin_s = time.monotonic()
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{pid}").exists() and _state(pid) != "Z" for pid in family):
        time.sleep(0.005)
    return time.monotonic() - begin_s


def _with_descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            fields = _stat(int(folder.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(folder.name))
    family = [root]
    for pid in family:
        family.extend(children.get(pid, ()))
    return family


def _stat(pid: int) -> list[str]:
    """The fields after the name of a process; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str:
    return next(iter(_stat(pid)), "Z")


def _last_start(run: Path) -> list[Record]:
    """The records since the last start; none before the first."""
    records = read_log(run)
    starts = [at for at, record in enumerate(records) if isinstance(record.event, RunStarted)]
    return records[starts[-1] :] if starts else []


def _last_step(run: Path) -> int:
    return max((r.event.step for r in _last_start(run) if isinstance(r.event, StepDone)), default=0)


def _beyond_a_checkpoint(process: "subprocess.Popen[bytes]", run: Path) -> None:
    """Waits until this start has trained some steps beyond a checkpoint that it has committed itself."""
    deadline = time.monotonic() + _LIMIT_S
    while True:
        saved = [r.event.step for r in _last_start(run) if isinstance(r.event, CheckpointSaved)]
        if saved and _last_step(run) >= saved[0] + _BEYOND_STEPS:
            return
        _pause(process, deadline, run)


def _follow(process: "subprocess.Popen[bytes]", run: Path, killed_s: float, dying_s: float, last_step: int) -> _Restart:
    """Waits for the first new step of a restart, and reads the times from the log."""
    deadline = time.monotonic() + _LIMIT_S
    while True:
        records = _last_start(run)
        steps = [(r.time_s, r.event) for r in records if isinstance(r.event, StepDone)]
        new = [at_s for at_s, step in steps if step.step > last_step]
        if new and records[0].time_s > killed_s:
            break
        _pause(process, deadline, run)
    started = records[0].event
    assert isinstance(started, RunStarted)
    begin_s = records[0].time_s
    first_s, first = steps[0]
    launcher_s = begin_s - started.startup_s - killed_s - dying_s
    parts = {"end of the killed": dying_s, "launcher": launcher_s, **started.startup}
    parts |= {"first batch": first.data_wait_s, "first step": first_s - begin_s - first.data_wait_s}
    return _Restart(
        first_step_s=first_s - killed_s,
        new_step_s=new[0] - killed_s,
        steps_again=last_step - started.step,
        startup_s=started.startup_s,
        parts=parts,
    )


def _pause(process: "subprocess.Popen[bytes]", deadline: float, run: Path) -> None:
    if process.poll() is not None or time.monotonic() > deadline:
        raise RuntimeError(f"the training ended or stuck:\n{(run.parent / 'output.txt').read_text()[-2000:]}")
    time.sleep(0.02)


def _peer_s(script: Path) -> float:
    """Start-up of the bare script's rank 0, in seconds."""
    model = json.dumps(dataclasses.asdict(load_config([recipe_path("synthetic.yaml")], ["model.norm=batch"]).model))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, str(script), model], check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout.rpartition("ready after")[2])


if __name__ == "__main__":
    main()
