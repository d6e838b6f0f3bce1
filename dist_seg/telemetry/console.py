"""Progress on standard error: a bar on a terminal, otherwise a log line now and then."""

import time
from collections.abc import Callable

from dist_seg.runtime.progress_bar import ProgressDisplay, duration, logger
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

_SCORES = {"miou": "mIoU", "mask_ap": "mask AP"}


class ConsoleSink:
    """Shows the progress of a training run: loss, images per second over all ranks, and the last score. Rank 0 only."""

    def __init__(self, *, terminal: bool | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal, self._clock = terminal, clock
        self._display: ProgressDisplay | None = None
        self._global_batch = 0
        self._rate = 0.0  # images per second over all ranks, a moving average
        self._score = ""

    def emit(self, event: Event) -> None:
        match event:
            case StepDone():
                self._step_done(event)
            case RunStarted():
                self._global_batch = event.global_batch
                self._display = ProgressDisplay(
                    event.max_steps, "train", done=event.step, terminal=self._terminal, clock=self._clock
                )
            case EvalDone():
                if event.score_name in event.metrics:
                    name = _SCORES.get(event.score_name, event.score_name)
                    self._score = f"{event.split} {name} {event.metrics[event.score_name]:.3f}"
                logger.info(
                    "step %d: %s (%s weights, %d images, %s)",
                    event.step,
                    self._score or "evaluated",
                    event.weights,
                    event.images,
                    duration(event.eval_s),
                )
            case CheckpointFailed():
                logger.error("step %d: no checkpoint: %s", event.step, event.reason)
            case RunEnded():
                self.close()
            case (
                BadSampleFound()
                | BadShardFound()
                | NonFiniteStep()
                | CheckpointSaved()
                | CheckpointIntervalChosen()
                | DigestTaken()
                | RankTimes()
            ):
                pass

    def close(self) -> None:
        if self._display is not None:
            self._display.close()
            self._display = None

    def _step_done(self, event: StepDone) -> None:
        if self._display is None:
            return
        # Not counted from this rank's samples: ranks may have different numbers of micro-batches.
        rate = self._global_batch / max(event.step_s, 1e-9)
        self._rate = rate if self._rate == 0.0 else 0.9 * self._rate + 0.1 * rate
        parts = [f"loss {event.loss:.4f}", f"{self._rate:.1f} images/s"]
        self._display.update(event.step, ", ".join([*parts, self._score] if self._score else parts))
