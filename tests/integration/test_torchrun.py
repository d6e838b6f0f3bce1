"""The commands under plain torchrun: several ranks give what one process gives."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.distributed.training import SMALL
from tests.integration.commands import dist_seg, environment

pytestmark = pytest.mark.distributed
NUM_PICTURES = 3


def torchrun(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`torchrun -m dist_seg ARGUMENTS` on two ranks, to its end."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "dist_seg",
    ]
    return subprocess.run(
        [*launcher, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that torchrun has started."""
    folder = tmp_path_factory.mktemp("torchrun")
    arguments = ["train", f"data.shards={synthetic_shards}", f"run.dir={folder / 'run'}", *SMALL]
    result = torchrun(*arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "run"


def test_training_under_torchrun_completes_on_all_ranks(trained: Path) -> None:
    assert json.loads((trained / "outcome.json").read_text())["outcome"] == "complete"
    assert (trained / "result.json").is_file()
    assert (trained / "report.html").is_file()
    assert (trained / "events-rank1.jsonl").is_file()


def test_eval_on_two_ranks_gives_the_result_of_one_process(trained: Path, tmp_path: Path) -> None:
    spread = torchrun("eval", trained, "--split", "train", "--out", tmp_path / "spread.json", cwd=tmp_path)
    alone = dist_seg("eval", trained, "--split", "train", "--out", tmp_path / "alone.json", cwd=tmp_path)
    assert (spread.returncode, alone.returncode) == (0, 0), spread.stderr + alone.stderr
    assert (tmp_path / "spread.json").read_text() == (tmp_path / "alone.json").read_text()


def test_predict_on_two_ranks_writes_the_files_of_one_process(trained: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(NUM_PICTURES):
        noise = np.random.default_rng(i).integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"noise-{i}.png")
    spread = torchrun("predict", trained, pictures, "--out", tmp_path / "spread", cwd=tmp_path)
    alone = dist_seg("predict", trained, pictures, "--out", tmp_path / "alone", cwd=tmp_path)
    assert (spread.returncode, alone.returncode) == (0, 0), spread.stderr + alone.stderr
    assert f"{NUM_PICTURES} pictures segmented" in spread.stdout
    assert contents(tmp_path / "spread") == contents(tmp_path / "alone")
    assert len(contents(tmp_path / "alone")) == 2 * NUM_PICTURES + 1  # masks, overlays and the legend


def contents(folder: Path) -> dict[str, bytes]:
    """But for what each rank notes of its own work, in hidden files."""
    shown = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in shown}
