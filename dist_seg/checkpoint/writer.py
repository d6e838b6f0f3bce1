"""Saving beside the training: the loop waits for the copy of the tensors, not for the disk."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dist_seg.checkpoint.state import TrainingState
from dist_seg.checkpoint.store import CheckpointStore, Retention

_log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes the states it is given one after the other in a thread of its own; lives on rank 0."""

    def __init__(
        self,
        store: CheckpointStore,
        retention: Retention,
        on_saved: Callable[[int, Path, float, float], None],
        last_step: int | None = None,
    ) -> None:
        """on_saved: called in the caller's thread with (step, path, stall_s, write_s) once a state is whole on disk.

        last_step: the step that is on disk already, if training goes on from one of this store.
        """
        self._store = store
        self._retention = retention
        self._on_saved = on_saved
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[tuple[Path, float]] | None = None
        self._pending_step, self._pending_stall_s = 0, 0.0
        self._last_step = last_step

    def save(self, take_state: Callable[[], TrainingState]) -> float:
        """Copies the state and has it written; returns the seconds that the caller waited.

        Waits for the save before, if that is still under way: at most one copy is held. Raises its error, if it failed.
        """
        begin = time.perf_counter()
        self.wait()
        state = take_state()
        self._pending = self._executor.submit(self._write, state)
        self._pending_step, self._last_step = state.meta.step, state.meta.step
        self._pending_stall_s = time.perf_counter() - begin
        return self._pending_stall_s

    @property
    def last_step(self) -> int | None:
        """The step that was saved last, whole or under way."""
        return self._last_step

    def record_score(self, step: int, miou: float) -> None:
        """Has the score of a step remembered, after the saves before, and prunes by it."""
        self.wait()
        self._store.record_score(step, miou)
        self._prune()

    def poll(self) -> None:
        """Reports a save that has finished; raises CheckpointError if it failed."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Waits until everything handed over is on disk; raises CheckpointError if it is not."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        path, write_s = pending.result()
        self._on_saved(self._pending_step, path, self._pending_stall_s, write_s)

    def close(self) -> None:
        """Waits, without raising: used when the run is failing for another reason."""
        try:
            self.wait()
        except Exception as error:  # Not swallowed: said here, where the run is ending for a reason of its own.
            _log.error("%s", error)
        finally:
            self._executor.shutdown(wait=True)

    def _write(self, state: TrainingState) -> tuple[Path, float]:
        begin = time.perf_counter()
        path = self._store.save(state)
        self._prune()
        return path, time.perf_counter() - begin

    def _prune(self) -> None:
        try:
            self._store.prune(self._retention)
        except OSError as error:
            _log.warning("%s: old checkpoints could not be deleted: %s", self._store.root, error)
