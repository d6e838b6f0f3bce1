"""Curves for TensorBoard, written by rank 0."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from dist_seg.errors import UserError
from dist_seg.storage.files import path_errors
from dist_seg.telemetry.events import (
    BadSampleFound,
    BadShardFound,
    CheckpointFailed,
    CheckpointIntervalChosen,
    CheckpointSaved,
    DigestTaken,
    EvalDone,
    Event,
    NonFiniteStep,
    RankTimes,
    RunEnded,
    RunStarted,
    StepDone,
)


class _Curves(Protocol):
    """The operations on a TensorBoard log that the sink needs."""

    def restart(self, step: int) -> None: ...

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoardSink:
    """Writes one record per step into `run_dir`/tensorboard. Steps that a restart repeats replace the old ones.

    Raises UserError if TensorBoard is not installed or the folder cannot be written.
    """

    def __init__(self, run_dir: Path, *, log_interval_steps: int = 1) -> None:
        self._curves = _open(run_dir / "tensorboard")
        self._interval_steps = log_interval_steps

    def emit(self, event: Event) -> None:
        match event:
            case StepDone():
                if event.step % self._interval_steps == 0:
                    self._curves.write(event.step, _step_scalars(event))
            case RunStarted():
                self._curves.restart(event.step)
            case EvalDone():
                scalars = {f"{event.split}/{name}": value for name, value in event.metrics.items()}
                self._curves.write(event.step, scalars)
            case CheckpointSaved():
                self._curves.write(
                    event.step, {"checkpoint/stall_s": event.stall_s, "checkpoint/write_s": event.write_s}
                )
            case (
                BadSampleFound()
                | BadShardFound()
                | NonFiniteStep()
                | CheckpointFailed()
                | CheckpointIntervalChosen()
                | DigestTaken()
                | RankTimes()
                | RunEnded()
            ):
                pass

    def close(self) -> None:
        self._curves.close()


def _step_scalars(event: StepDone) -> dict[str, float]:
    return {
        "train/loss": event.loss,
        **{f"train/loss_{name}": value for name, value in event.parts.items()},
        "train/learning_rate": event.lr,
        "train/gradient_norm": event.grad_norm,
        "time/step_s": event.step_s,
        "time/data_wait_s": event.data_wait_s,
        "time/forward_s": event.forward_s,
        "time/backward_s": event.backward_s,
        "time/optimizer_s": event.optimizer_s,
    }


def _open(folder: Path) -> _Curves:
    try:
        # TensorBoard ships no type information.
        from tensorboard.compat.proto.event_pb2 import Event as Record  # type: ignore[import-untyped]
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(
            "telemetry.tensorboard is on, but TensorBoard is not installed: pip install 'dist-seg[tensorboard]'"
        ) from error

    class Curves:
        """Writes all scalars of a step as one record, which takes a tenth of the time of one record each."""

        def __init__(self) -> None:
            with path_errors(folder):
                self._writer = EventFileWriter(str(folder), max_queue_size=1000, flush_secs=30)

        def restart(self, step: int) -> None:
            # TensorBoard drops this step and all later ones.
            mark = SessionLog(status=SessionLog.START)
            self._writer.add_event(Record(wall_time=time.time(), step=step + 1, session_log=mark))

        def write(self, step: int, scalars: Mapping[str, float]) -> None:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
            self._writer.add_event(Record(wall_time=time.time(), step=step, summary=Summary(value=values)))

        def close(self) -> None:
            self._writer.close()

    return Curves()
