"""The commands as a user calls them, on small data, in processes of their own."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.integration.commands import command, dist_seg, environment, tiny_training


@pytest.fixture(scope="module")
def trained(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of six steps on two ranks."""
    folder = tmp_path_factory.mktemp("commands")
    line = command(*tiny_training(synthetic_shards, folder / "run"), "--nproc", 2)
    result = subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "mIoU" in result.stdout
    return folder / "run"


def test_training_leaves_result_report_and_checkpoint(trained: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    assert 0 <= result["miou"] <= 1
    assert result["images"] == 8
    assert result["checkpoint"] == {"step": 6, "weights": "ema"}
    assert set(result["iou"]) == set(result["class_names"])
    assert sum(map(sum, result["confusion_matrix"])) == 8 * 96 * 128
    assert "</html>" in (trained / "report.html").read_text()
    assert (trained / "checkpoints" / "step-00000006" / "checksums.json").is_file()
    assert json.loads((trained / "outcome.json").read_text())["outcome"] == "complete"
    assert len(json.loads((trained / "ports.json").read_text())["prometheus"]) == 2


def test_starting_a_finished_run_again_trains_nothing_and_gives_the_same_result(trained: Path) -> None:
    before = json.loads((trained / "result.json").read_text())
    shards = next(line for line in (trained / "config.yaml").read_text().splitlines() if "shards:" in line)
    result = dist_seg(*tiny_training(Path(shards.split(": ")[1]), trained), "--nproc", 2, cwd=trained.parent)
    assert result.returncode == 0, result.stderr
    assert json.loads((trained / "result.json").read_text()) == before


def test_eval_repeats_the_score_of_the_training_exactly(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    result = dist_seg("eval", trained, "--out", out, cwd=trained.parent)
    assert result.returncode == 0, result.stderr
    found, trained_with = json.loads(out.read_text()), json.loads((trained / "result.json").read_text())
    for field in ("confusion_matrix", "miou", "miou_interval", "iou", "manifest_hash"):
        assert found[field] == trained_with[field], field


def test_eval_on_other_shards_takes_split_weights_and_checkpoint(
    trained: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "other.json"
    arguments = ["--data", synthetic_shards, "--split", "train", "--checkpoint", 3, "--weights", "raw", "--out", out]
    result = dist_seg("eval", trained, *arguments, "eval.batch=4", "data.loader=torch", cwd=trained.parent)
    assert result.returncode == 0, result.stderr
    document = json.loads(out.read_text())
    assert document["images"] == 24
    assert (document["checkpoint"]["step"], document["checkpoint"]["weights"]) == (3, "raw")


def test_predict_writes_class_ids_and_overlays_of_the_picture_size(trained: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures" / "sub"
    pictures.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (70, 101, 3), dtype=np.uint8)
    Image.fromarray(noise).save(pictures / "noise.png")
    Image.fromarray(noise[..., 0]).save(pictures / "grey.jpg")
    result = dist_seg("predict", trained, tmp_path / "pictures", "--out", tmp_path / "out", cwd=trained.parent)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "out" / "sub" / "noise.png") as mask:
        assert mask.size == (101, 70)
        assert mask.mode == "L"
        assert int(np.asarray(mask).max()) < 6
    assert (tmp_path / "out" / "sub" / "noise_overlay.png").is_file()
    assert (tmp_path / "out" / "sub" / "grey.png").is_file()


def test_report_is_drawn_again(trained: Path) -> None:
    (trained / "report.html").unlink()
    result = dist_seg("report", trained, cwd=trained.parent)
    assert result.returncode == 0, result.stderr
    assert (trained / "report.html").stat().st_size > 20_000


def test_audit_of_a_run_with_itself_agrees_and_with_another_seed_does_not(
    trained: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    assert dist_seg("audit", trained, trained, cwd=tmp_path).returncode == 0
    other = ["train.seed=1", "train.max_steps=2"]
    assert dist_seg(*tiny_training(synthetic_shards, tmp_path / "other", other), cwd=tmp_path).returncode == 0
    result = dist_seg("audit", trained, tmp_path / "other", cwd=tmp_path)
    assert result.returncode == 1
    assert "batches differ from step 1 on" in result.stdout


def test_changed_settings_are_refused_with_the_list_of_differences(trained: Path, synthetic_shards: Path) -> None:
    result = dist_seg(*tiny_training(synthetic_shards, trained, ["optim.lr=0.5"]), cwd=trained.parent)
    assert result.returncode == 2
    assert "optim.lr: 0.001 there, 0.5 here" in result.stderr
    assert "Traceback" not in result.stderr


def test_fresh_moves_the_old_run_aside(synthetic_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "keepsake").write_text("mine")
    result = dist_seg(*tiny_training(synthetic_shards, run, ["train.max_steps=1"]), "--fresh", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run.old-1" / "keepsake").read_text() == "mine"
    assert (run / "result.json").is_file()


def test_dry_run_checks_and_estimates_and_leaves_nothing(synthetic_shards: Path, tmp_path: Path) -> None:
    result = dist_seg("train", f"data.shards={synthetic_shards}", "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for text in ("24 training and 8 validation images", "micro-batches of", "MiB", "time"):
        assert text in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_print_config_shows_the_fitted_values(synthetic_shards: Path, tmp_path: Path) -> None:
    result = dist_seg("train", f"data.shards={synthetic_shards}", "--print-config", "optim.lr=0.25", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "lr: 0.25" in result.stdout
    assert "crop_height: 96" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_dry_run_shows_what_instances_would_be_trained_with(instance_shards: Path, tmp_path: Path) -> None:
    result = dist_seg("train", f"data.shards={instance_shards}", "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for text in ("24 training and 8 validation images", "mask_rcnn", "anchors of", "detections an image", "time"):
        assert text in result.stderr, text
    assert list(tmp_path.iterdir()) == []


def test_instances_are_trained_without_a_file_of_settings(instance_shards: Path, tmp_path: Path) -> None:
    small = ["model.encoder=mobilenetv3_small_050", "train.max_steps=2", "train.eval_interval_steps=0"]
    run = tmp_path / "run"
    result = dist_seg("train", f"data.shards={instance_shards}", f"run.dir={run}", *small, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "step 2: val mask AP" in result.stderr
    assert "Evaluate annotation" not in result.stderr  # The library that scores keeps to itself.
    assert result.stdout.startswith("mask AP")
    document = json.loads((run / "result.json").read_text())
    assert document["images"] == 8
    assert 0 <= document["mask_ap"] <= 1
    fitted = yaml.safe_load((run / "config.yaml").read_text())
    assert fitted["task"] == "instance"
    assert all(value is not None for value in fitted["mask_rcnn"].values())
    checkpoint = json.loads((run / "checkpoints" / "step-00000002" / "meta.json").read_text())
    assert checkpoint["config"]["mask_rcnn"] == fitted["mask_rcnn"]
    for arguments in (
        ["train", f"data.shards={instance_shards}", f"run.dir={tmp_path / 'other'}", *small, "eval.flip=true"],
        ["eval", str(run), "eval.flip=true"],
    ):
        refused = dist_seg(*arguments, cwd=tmp_path)
        assert refused.returncode == 2
        assert "eval.flip=true: has no effect on instances; set eval.flip=false" in refused.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("nproc", [None, 3])
def test_sigterm_leaves_a_checkpoint_and_exits_143(synthetic_shards: Path, tmp_path: Path, nproc: int | None) -> None:
    run = tmp_path / "run"
    lanes = ["train.global_batch=6", "train.micro_batch=2"]
    arguments = tiny_training(
        synthetic_shards, run, [*lanes, "train.max_steps=5000", "checkpoint.interval_steps=100000"]
    )
    launcher = [] if nproc is None else ["--nproc", str(nproc)]
    process = subprocess.Popen(command(*arguments, *launcher), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    try:
        wait_for_step(run, 3, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 143
    outcome = json.loads((run / "outcome.json").read_text())
    assert outcome["outcome"] == "preempted"
    steps = [int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")]
    assert steps == [outcome["step"]]


def test_ctrl_c_leaves_a_checkpoint_and_exits_143(synthetic_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = tiny_training(synthetic_shards, run, ["train.max_steps=5000", "checkpoint.interval_steps=100000"])
    process = subprocess.Popen(command(*arguments), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    try:
        wait_for_step(run, 3, process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 143
    assert len(list((run / "checkpoints").glob("step-*"))) == 1


def wait_for_step(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    log = run / "events.jsonl"
    for _ in range(900):
        if log.exists() and log.read_text().count('"StepDone"') >= step:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    raise AssertionError("no step within 90 s")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "data.shards=nowhere"], "nowhere"),
        (["train", "absent.yaml"], "no such configuration file"),
        (["train", "data.shards=x", "optim.lrr=1"], "did you mean optim.lr?"),
        (["eval", "nowhere"], "there is no run here"),
        (["audit", "nowhere", "nowhere"], "nowhere"),
        (["verify", "nowhere"], "nowhere"),
        (["pack", "camvid", "nowhere", "out"], "nowhere"),
        (["pack", "folder", "nowhere", "nothing", "out"], "nowhere"),
        (["predict", "nowhere", "x.jpg", "--out", "y"], "there is no run here"),
    ],
)
def test_mistakes_end_with_2_and_a_message_without_traceback(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    result = dist_seg(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_more_ranks_than_lanes_is_refused(synthetic_shards: Path, tmp_path: Path) -> None:
    arguments = tiny_training(synthetic_shards, tmp_path / "run", ["train.micro_batch=4"])
    result = dist_seg(*arguments, "--nproc", 2, cwd=tmp_path)
    assert result.returncode == 2
    assert "2 ranks" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["telemetry.sinks=[no.such:sink]"], "telemetry.sinks"),
        (["checkpoint.resume=nowhere"], "nowhere"),
        (["telemetry.prometheus_address=203.0.113.7"], "prometheus_address"),
        (["run.dir=a_file/run"], "a_file/run"),
        (["eval.metrics=[no.such:metric]"], "eval.metrics"),
        (["data.val_split=test"], "has no samples of split 'test' to evaluate on; it has train, val"),
        pytest.param(
            ["model.norm=sync"],
            "sync needs a GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_dry_run_finds_what_would_stop_the_start(
    settings: list[str], message: str, synthetic_shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "a_file").write_text("")
    arguments = tiny_training(synthetic_shards, tmp_path / "run", settings)
    result = dist_seg(*arguments, "--dry-run", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_index_is_found_before_the_start(synthetic_shards: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(synthetic_shards, shards)
    index = sorted(shards.glob("train-*.samples"))[-1]
    index.unlink()
    result = dist_seg(*tiny_training(shards, tmp_path / "run"), cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert index.name in result.stderr


def test_the_same_command_goes_on_although_it_began_from_another_runs_checkpoint(
    trained: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    run, origin = tmp_path / "run", trained / "checkpoints" / "step-00000003"
    arguments = tiny_training(synthetic_shards, run, [f"checkpoint.resume={origin}", "train.max_steps=9"])
    assert dist_seg(*arguments, cwd=tmp_path).returncode == 0
    assert dist_seg(*arguments, cwd=tmp_path).returncode == 0
    started = [line for line in (run / "events.jsonl").read_text().splitlines() if '"RunStarted"' in line]
    assert [json.loads(line)["step"] for line in started] == [3, 9]


def test_a_model_of_ones_own_is_found_beside_the_command(synthetic_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.body, self.unused = nn.Conv2d(3, classes, 1), nn.Conv2d(3, 1, 1)\n"
        "    def forward(self, images):\n"
        "        return self.body(images)\n"
        "def build(cfg, num_classes):\n"
        "    return Net(num_classes)\n"
    )
    arguments = tiny_training(synthetic_shards, tmp_path / "run", ["model.name=my_nets:build"])
    result = dist_seg(*arguments, "--nproc", 2, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "unused.weight, unused.bias" in result.stderr
    assert "Traceback" not in result.stderr
