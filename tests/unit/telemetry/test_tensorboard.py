import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_seg.errors import UserError
from dist_seg.telemetry.events import EvalDone, RunStarted, StepDone
from dist_seg.telemetry.tensorboard import TensorBoardSink


def test_tensorboard_reads_the_curves_with_a_restart_resolved(
    tmp_path: Path, run_started: Callable[..., RunStarted], step_done: Callable[..., StepDone]
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sink = TensorBoardSink(tmp_path)
    sink.emit(run_started(0))
    for step in (1, 2, 3):
        sink.emit(step_done(step, loss=1.0))
    sink.emit(run_started(1))
    sink.emit(step_done(2, loss=2.0))
    sink.emit(EvalDone(step=2, split="val", weights="ema", metrics={"miou": 0.5}, images=1, eval_s=1.0))
    sink.close()
    curves = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert [(point.step, point.value) for point in curves.Scalars("train/loss")] == [(1, 1.0), (2, 2.0)]
    assert [(point.step, point.value) for point in curves.Scalars("val/miou")] == [(2, 0.5)]


def test_a_folder_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("mine")
    with pytest.raises(UserError, match="tensorboard: cannot be written: a file lies where a folder is needed"):
        TensorBoardSink(tmp_path)


def test_the_missing_package_is_an_error_that_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"dist-seg\[tensorboard\]"):
        TensorBoardSink(tmp_path)
