"""Data sets and runs that commit 480d9a5 wrote are read, and the runs go on as they would have gone on then.

That is the last commit before the package's modules were moved. What it wrote, and how:
`tests/data/before_layout/README.md`.
"""

import hashlib
import json
import platform
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.commands import ROOT, dist_seg

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
BEFORE = ROOT / "tests" / "data" / "before_layout"
SAMPLES = {
    "semantic": {"train": 8, "val": 2},
    "instance": {"train": 8, "val": 2},
    "multilabel": {"train": 3, "val": 2},
    "arrays": {"train": 4, "val": 1},
    "indexed": {"train": 2, "val": 2},
}
RANKS = {"semantic_ddp": 2, "semantic_deepspeed": 2, "instance_ddp": 1, "instance_deepspeed": 2}
STOPPED_AT, MAX_STEPS = 6, 12
ROUNDING = {"AVX2": 1e-4, "AVX512": 1e-4}
"""How far losses and scores may be apart, by the vectors of the processor. Between these two they were 1e-7 apart."""
OTHER_ROUNDING = 0.05
"""On a processor with neither, where the losses of Mask R-CNN were up to 1% apart."""


def machine() -> dict[str, str]:
    """What the bits of a training depend on, besides its settings."""
    file = Path("/proc/cpuinfo")
    first = file.read_text().partition("\n\n")[0] if file.exists() else ""
    cpu = dict(re.findall(r"^(.+?)\s*: (.+)$", first, re.MULTILINE))
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "cpu_version": "/".join(cpu.get(field, "") for field in ("cpu family", "model", "stepping")),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "torchvision", "timm", "numpy", "pillow")},
        "deepspeed": version("deepspeed") if find_spec("deepspeed") else "",
    }


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """Rank 0's of a kind, in their order."""
    records = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == kind]


def losses(run: Path) -> dict[str, float]:
    """By step."""
    return {str(record["step"]): record["loss"] for record in events(run, "StepDone")}


def score(document: Path) -> dict[str, float]:
    """The numbers of a `result.json` that are of all classes together."""
    return {name: value for name, value in json.loads(document.read_text()).items() if isinstance(value, float)}


def digest(run: Path) -> str:
    """Of all tensors of the last checkpoint, by file and name."""
    content = hashlib.sha256()
    for part in ("model", "ema", "optimizer"):
        tensors = load_file(run / "checkpoints" / f"step-{MAX_STEPS:08d}" / f"{part}.safetensors")
        for name, tensor in sorted(tensors.items()):
            content.update(f"{part} {name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            content.update(tensor.numpy().tobytes())
    return content.hexdigest()


def facts(run: str) -> str:
    """What `expected/RUN/facts.json` says of a run without interruption."""
    folder = Path(run)
    found = {
        "losses": losses(folder),
        "score": score(folder / "result.json"),
        "digest": digest(folder),
        "machine": machine(),
    }
    return json.dumps(found, indent=1)


def assert_close(found: dict[str, float], expected: dict[str, float]) -> None:
    most = ROUNDING.get(machine()["vectors"], OTHER_ROUNDING)
    assert found == pytest.approx(expected, rel=most, abs=most)


def laid_out(name: str, folder: Path) -> Path:
    """A stopped run in a folder, with the data where its configuration says that it lies."""
    if name.endswith("deepspeed") and find_spec("deepspeed") is None:
        pytest.skip("needs the extra `deepspeed`")
    shutil.copytree(BEFORE / "data", folder / "data")
    return Path(shutil.copytree(BEFORE / "runs" / name, folder / "runs" / name))


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """A stopped run that was started again, and has ended."""

    name: str
    folder: Path
    """In which the command ran."""
    code: int
    output: str

    @property
    def run(self) -> Path:
        return self.folder / "runs" / self.name

    @property
    def expected(self) -> dict[str, Any]:
        """Facts of the run without interruption."""
        found: dict[str, Any] = json.loads((BEFORE / "expected" / self.name / "facts.json").read_text())
        return found


@pytest.fixture(scope="module", params=RANKS)
def resumed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    name = str(request.param)
    folder = tmp_path_factory.mktemp(name)
    config = laid_out(name, folder) / "config.yaml"
    launcher = ["--nproc", RANKS[name]] if RANKS[name] > 1 else []
    result = dist_seg("train", config.relative_to(folder), *launcher, cwd=folder)
    return Resumed(name=name, folder=folder, code=result.returncode, output=result.stdout + result.stderr)


@pytest.mark.parametrize("data", SAMPLES)
def test_shards_are_verified_and_inspected(data: str, tmp_path: Path) -> None:
    shutil.copytree(BEFORE / "data" / data, tmp_path / data)
    verified = dist_seg("verify", data, cwd=tmp_path)
    assert (verified.returncode, verified.stdout) == (0, f"{data}: as it was packed\n"), verified.stderr
    inspected = dist_seg("inspect", data, "--out", "sheet.png", "--json", "found.json", cwd=tmp_path)
    assert inspected.returncode == 0, inspected.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {split["name"]: split["num_samples"] for split in found["splits"]} == SAMPLES[data]
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize("name", RANKS)
def test_a_stopped_run_is_audited_and_its_checkpoint_listed_shown_and_verified(name: str, tmp_path: Path) -> None:
    run = laid_out(name, tmp_path)
    for command, shown in {
        "audit": f"{STOPPED_AT} steps compared\nbatches agree\nweights agree to the bit",
        "checkpoint ls": "whole",
        "checkpoint show": f"step          {STOPPED_AT}\n",
        "checkpoint verify": "1 checkpoint read, 0 problems",
    }.items():
        runs = [run, BEFORE / "expected" / name] if command == "audit" else [run]
        result = dist_seg(*command.split(), *runs, cwd=tmp_path)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        assert shown in result.stdout, command


@pytest.mark.parametrize("name", RANKS)
def test_a_stopped_run_has_the_score_that_it_had(name: str, tmp_path: Path) -> None:
    run = laid_out(name, tmp_path)
    result = dist_seg("eval", run.relative_to(tmp_path), "--out", "eval.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert_close(score(tmp_path / "eval.json"), score(BEFORE / "expected" / name / "eval.json"))


def test_a_stopped_run_goes_on_to_the_losses_and_score_of_one_without_interruption(resumed: Resumed) -> None:
    assert resumed.code == 0, resumed.output
    assert [record["step"] for record in events(resumed.run, "RunStarted")] == [0, STOPPED_AT], resumed.output
    assert [record["step"] for record in events(resumed.run, "StepDone")] == list(range(1, MAX_STEPS + 1))
    assert json.loads((resumed.run / "outcome.json").read_text())["outcome"] == "complete"
    assert_close(losses(resumed.run), resumed.expected["losses"])
    assert_close(score(resumed.run / "result.json"), resumed.expected["score"])


def test_the_report_of_a_run_that_went_on_is_drawn_again_from_both_parts_of_its_log(resumed: Resumed) -> None:
    (resumed.run / "report.html").unlink()
    result = dist_seg("report", resumed.run, cwd=resumed.folder)
    assert result.returncode == 0, result.stderr
    assert "</html>" in (resumed.run / "report.html").read_text()


def test_a_run_that_went_on_had_the_batches_of_one_without_interruption(resumed: Resumed) -> None:
    result = dist_seg("audit", resumed.run, BEFORE / "expected" / resumed.name, cwd=resumed.folder)
    assert f"{MAX_STEPS} steps compared\nbatches agree\n" in result.stdout, result.stdout + result.stderr


def test_a_stopped_run_ends_with_the_bits_of_one_without_interruption(resumed: Resumed) -> None:
    then, now = resumed.expected["machine"], machine()
    if not resumed.name.endswith("deepspeed"):
        now["deepspeed"] = then["deepspeed"]
    other = [f"{what} {now[what]!r}, not {then[what]!r}" for what in then if now[what] != then[what]]
    if other:
        pytest.skip(f"needs the machine and versions of the run before: {', '.join(other)}")
    assert digest(resumed.run) == resumed.expected["digest"]
