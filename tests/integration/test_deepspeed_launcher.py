"""The real `deepspeed` command starts ranks that train: on one machine, from a list of hosts, and host by host."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dist_seg.runs.folder import RunFolder
from tests.integration.commands import ROOT, TINY, environment

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra `deepspeed`"),
]
SETTINGS = [*TINY, "engine.name=deepspeed", "data.loader=torch", "data.num_threads=0", "train.max_steps=2"]


def started(tmp_path: Path, shards: Path, *options: object) -> subprocess.Popen[str]:
    """The launcher, in a process group of its own."""
    launcher = Path(sys.executable).with_name("deepspeed")
    arguments = [f"data.shards={shards}", f"run.dir={tmp_path / 'run'}", *SETTINGS]
    return subprocess.Popen(
        [str(part) for part in (sys.executable, launcher, *options, ROOT / "launch" / "train.py", *arguments)],
        cwd=tmp_path,
        env={**environment(), "DS_ACCELERATOR": "cpu", "PATH": f"{launcher.parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(processes: list[subprocess.Popen[str]]) -> list[int]:
    """Their exit codes; nothing that they have started is left behind."""
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
        print(*outputs, sep="\n")
        return [process.returncode for process in processes]
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def world_size(run: Path) -> int:
    checkpoints = RunFolder(path=run).checkpoints
    return int(json.loads(Path(checkpoints.path(checkpoints.steps()[-1]), "meta.json").read_text())["world_size"])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def hostfile(folder: Path, *lines: str) -> Path:
    file = folder / "hosts"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_the_launcher_starts_the_ranks_that_the_list_of_hosts_says(tmp_path: Path, synthetic_shards: Path) -> None:
    hosts = hostfile(tmp_path, "localhost slots=2")
    options = ["--no_ssh_check", "--hostfile", hosts, "--master_addr", "127.0.0.1", "--master_port", free_port()]
    assert finished([started(tmp_path, synthetic_shards, *options)]) == [0]
    assert world_size(tmp_path / "run") == 2
    assert json.loads((tmp_path / "run" / "outcome.json").read_text())["outcome"] == "complete"


def test_hosts_that_start_themselves_train_together(tmp_path: Path, synthetic_shards: Path) -> None:
    """Both names are this machine's: what is different from two machines is the wire."""
    hosts = hostfile(tmp_path, "127.0.0.1 slots=1", "127.0.0.2 slots=1")
    meeting = ["--master_addr", "127.0.0.1", "--master_port", free_port()]
    nodes = [["--no_ssh", "--node_rank", rank, "--hostfile", hosts, *meeting] for rank in (0, 1)]
    assert finished([started(tmp_path, synthetic_shards, *options) for options in nodes]) == [0, 0]
    assert world_size(tmp_path / "run") == 2


def test_a_users_error_is_the_launchers_exit_code(tmp_path: Path, synthetic_shards: Path) -> None:
    port = ["--num_accelerators", 1, "--master_port", free_port()]
    launcher = started(tmp_path, synthetic_shards / "missing", *port)
    assert finished([launcher]) == [2]
