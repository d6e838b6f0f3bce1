"""`dist-seg checkpoint`, on checkpoints of a small network in a run's folder and in a folder of their own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from dist_seg.checkpoint.state import CheckpointMeta, TrainingState
from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.cli.main import main
from dist_seg.config.load import load_config, to_tree, to_yaml
from dist_seg.runs.folder import RunFolder

Run = Callable[..., tuple[int, str]]
CONFIG = load_config([], ["data.shards=some/shards", "optim.lr=0.0625"])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def state_of(step: int) -> TrainingState:
    model = network().state_dict()
    return TrainingState(
        meta=CheckpointMeta(
            step=step,
            config=to_tree(CONFIG),
            manifest={"hash": "abc", "task": "semantic", "class_names": ["sky", "röad"], "ignore_index": 255},
            world_size=2,
            bad_samples={"a/1": "half a JPEG"},
        ),
        model=model,
        ema={name: tensor / 2 for name, tensor in model.items() if tensor.is_floating_point()},
        optimizer={"0.weight/exp_avg": torch.zeros(4, 3, 3, 3)},
    )


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 2, 4, 6 and 8, of which 4 has the best score."""
    folder = RunFolder(path=tmp_path / "run")
    folder.write_text("config.yaml", to_yaml(CONFIG))
    for step, score in ((2, 0.3), (4, 0.5), (6, 0.4), (8, None)):
        folder.checkpoints.save(state_of(step))
        if score is not None:
            folder.checkpoints.record_score(step, score)
    return folder.path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; its code, and what it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["checkpoint", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def damage(run_dir: Path, step: int, name: str = "model.safetensors") -> Path:
    file = run_dir / "checkpoints" / f"step-{step:08d}" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return file


def test_ls_shows_steps_scores_and_the_best_and_last(run_dir: Path, command: Run) -> None:
    code, text = command("ls", run_dir)
    assert code == 0
    rows = [line.split() for line in text.splitlines()[1:]]
    assert [row[0] for row in rows] == ["2", "4", "6", "8"]
    assert [("best" in row, "last" in row) for row in rows] == [
        (False, False),
        (True, False),
        (False, False),
        (False, True),
    ]
    assert [row[-1] for row in rows] == ["whole"] * 4
    assert "0.5000" in rows[1] and "0.5000" not in rows[0]


def test_ls_gives_json_with_bytes_age_and_path(run_dir: Path, command: Run) -> None:
    code, text = command("ls", run_dir, "--json")
    rows = json.loads(text)
    folder = run_dir / "checkpoints" / "step-00000002"
    assert code == 0
    assert rows[0]["path"] == str(folder)
    assert rows[0]["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert 0 <= rows[0]["age_s"] < 3600
    assert [row["score"] for row in rows] == [0.3, 0.5, 0.4, None]


def test_ls_sees_at_a_glance_what_is_cut_off_or_missing(run_dir: Path, command: Run) -> None:
    cut = run_dir / "checkpoints" / "step-00000004" / "optimizer.safetensors"
    cut.write_bytes(cut.read_bytes()[:-3])
    (run_dir / "checkpoints" / "step-00000006" / "ema.safetensors").unlink()
    problems = [row["problem"] for row in json.loads(command("ls", run_dir, "--json")[1])]
    assert problems[0] == problems[3] == ""
    assert "optimizer.safetensors: unreadable tensors" in problems[1]
    assert "ema.safetensors: no such file" in problems[2]


def test_ls_lists_a_folder_of_checkpoints_without_its_run(run_dir: Path, command: Run) -> None:
    assert command("ls", run_dir / "checkpoints")[1].count("whole") == 4


def test_a_place_without_checkpoints_is_an_error(tmp_path: Path, command: Run) -> None:
    for action in (["ls"], ["verify"], ["prune", "--keep-last", "1"]):
        code, text = command(action[0], tmp_path, *action[1:])
        assert code == 2 and f"{tmp_path}: contains no checkpoint" in text


def test_show_names_data_configuration_and_tensors(run_dir: Path, command: Run) -> None:
    code, text = command("show", run_dir, "--checkpoint", "best")
    assert code == 0
    for line in (
        "step          4",
        "classes       sky, röad",
        "              a/1: half a JPEG",
        "    lr: 0.0625",
        "  0.weight  F32  4x3x3x3",
        "  1.num_batches_tracked  I64  scalar",
        "optimizer: 1 tensors, 0.0 MB",
    ):
        assert line in text.splitlines(), text


def test_show_takes_one_checkpoint_by_its_path(run_dir: Path, command: Run) -> None:
    assert "step          6" in command("show", run_dir / "checkpoints" / "step-00000006")[1]


def test_verify_passes_what_is_whole(run_dir: Path, command: Run) -> None:
    assert command("verify", run_dir) == (0, "4 checkpoints read, 0 problems\n")


def test_verify_names_every_file_that_is_damaged(run_dir: Path, command: Run) -> None:
    files = [damage(run_dir, 4), damage(run_dir, 6, "meta.json")]
    code, text = command("verify", run_dir)
    assert code == 1
    assert all(f"{file}: its content does not match checksums.json" in text for file in files)
    assert command("verify", run_dir, "--checkpoint", "8")[0] == 0


def test_prune_keeps_what_it_is_told(run_dir: Path, command: Run) -> None:
    code, text = command("prune", run_dir, "--keep-last", 1, "--keep-best", "--keep-every", 3)
    assert (code, text) == (0, "deleted: 2; kept: 4, 6, 8\n")
    assert CheckpointStore(run_dir / "checkpoints").steps() == [4, 6, 8]


def test_a_dry_run_of_prune_deletes_nothing(run_dir: Path, command: Run) -> None:
    assert command("prune", run_dir, "--keep-last", 1, "--dry-run") == (0, "would be deleted: 2, 4, 6; kept: 8\n")
    assert CheckpointStore(run_dir / "checkpoints").steps() == [2, 4, 6, 8]


def test_prune_leaves_a_run_alone_that_a_process_trains_in(run_dir: Path, command: Run) -> None:
    holder = "import sys; from pathlib import Path; from dist_seg.runs.folder import RunFolder\n"
    holder += f"with RunFolder(path=Path({str(run_dir)!r})).locked(): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        code, text = command("prune", run_dir, "--keep-last", 1)
        process.communicate("")
    assert code == 2 and "another process trains in this folder" in text
    assert CheckpointStore(run_dir / "checkpoints").steps() == [2, 4, 6, 8]


def test_prune_refuses_to_keep_nothing(run_dir: Path, command: Run) -> None:
    assert command("prune", run_dir, "--keep-last", 0)[0] == 2
    assert CheckpointStore(run_dir / "checkpoints").steps() == [2, 4, 6, 8]


@pytest.mark.parametrize(("weights", "factor"), [("ema", 0.5), ("raw", 1.0), (None, 0.5)])
def test_exported_weights_are_those_that_were_asked_for(
    run_dir: Path, command: Run, tmp_path: Path, weights: str | None, factor: float
) -> None:
    out = tmp_path / "model.safetensors"
    code, _ = command("export", run_dir, "--out", out, *(["--weights", weights] if weights else []))
    assert code == 0
    exported, expected = load_file(out), network().state_dict()
    assert exported.keys() == expected.keys()
    assert torch.equal(exported["0.weight"], expected["0.weight"] * factor)
    assert torch.equal(exported["1.num_batches_tracked"], expected["1.num_batches_tracked"])


def test_an_export_carries_configuration_classes_and_step(run_dir: Path, command: Run, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    assert command("export", run_dir, "--out", out, "--checkpoint", 6)[0] == 0
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    (tmp_path / "config.yaml").write_text(metadata["config"])
    assert load_config([tmp_path / "config.yaml"]) == CONFIG
    assert json.loads(metadata["class_names"]) == ["sky", "röad"]
    assert {key: metadata[key] for key in ("step", "weights", "format_version", "ignore_index", "task")} == {
        "step": "6",
        "weights": "ema",
        "format_version": "1",
        "ignore_index": "255",
        "task": "semantic",
    }


WITHOUT_THE_PROJECT = """
import sys
sys.modules["dist_seg"] = None  # Whoever imports it gets an ImportError.
import torch
from safetensors.torch import load_file
from torch import nn

model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
print(model.load_state_dict(load_file(sys.argv[1])))
print(model.eval()(torch.ones(1, 3, 5, 5)).double().sum().item())
"""


def test_an_export_is_read_without_this_project_into_a_plain_module(
    run_dir: Path, command: Run, tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    assert command("export", run_dir, "--out", out, "--weights", "raw")[0] == 0
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PROJECT, str(out)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    expected = network().eval()(torch.ones(1, 3, 5, 5)).double().sum().item()
    assert result.stdout.splitlines()[0] == "<All keys matched successfully>"
    assert float(result.stdout.splitlines()[1]) == pytest.approx(expected, rel=1e-5)


def test_a_damaged_checkpoint_is_not_exported(run_dir: Path, command: Run, tmp_path: Path) -> None:
    file = damage(run_dir, 8, "ema.safetensors")
    code, text = command("export", run_dir, "--out", tmp_path / "model.safetensors")
    assert code == 2 and f"{file}: its content does not match checksums.json" in text
    assert not (tmp_path / "model.safetensors").exists()
