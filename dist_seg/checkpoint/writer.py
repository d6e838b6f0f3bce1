"""Saves checkpoints beside the training: the loop waits for the copy of the tensors, not for the disk."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from dist_seg.checkpoint.state import SnapshotBuffers, TrainingState
from dist_seg.checkpoint.store import CheckpointStore, Retention
from dist_seg.errors import CheckpointError

_log = logging.getLogger(__name__)


class SaveListener(Protocol):
    """Is told about saves, in the thread that calls the writer."""

    def saved(self, step: int, path: str, stall_s: float, write_s: float) -> None:
        """A checkpoint is complete on storage; the caller waited `stall_s` for it."""
        ...

    def failed(self, step: int, reason: str) -> None: ...


class CheckpointWriter:
    """Writes states one after the other in its own thread. Only rank 0 has one."""

    def __init__(
        self, store: CheckpointStore, retention: Retention, listener: SaveListener, last_step: int | None = None
    ) -> None:
        """last_step: the step that is already on disk, if the training resumes from a checkpoint of this store."""
        self._store, self._retention, self._listener = store, retention, listener
        # At normal priority: a thread of lower priority may be preempted while it holds the interpreter's lock, and the
        # training then waits for it.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._buffers = SnapshotBuffers()
        self._pending: Future[tuple[str, float]] | None = None
        self._pending_step, self._pending_stall_s = 0, 0.0
        self._last_step = last_step
        self._failure: CheckpointError | None = None

    def save(self, take_state: Callable[[SnapshotBuffers], TrainingState]) -> float:
        """Copies the state, starts to write it and returns the seconds that the caller waited.

        Waits for the previous save if it is still running: at most one copy is held, in the buffers that `take_state`
        gets. Raises CheckpointError if the previous save failed, once this one is running.
        """
        begin = time.perf_counter()
        before = self._ended()
        state = take_state(self._buffers)
        self._pending = self._executor.submit(self._write, state)
        self._pending_step = state.meta.step
        self._pending_stall_s = time.perf_counter() - begin
        if before is not None:
            raise before
        return self._pending_stall_s

    @property
    def is_writing(self) -> bool:
        """Whether a save is running."""
        return self._pending is not None and not self._pending.done()

    @property
    def last_step(self) -> int | None:
        """The newest step that was saved or is being saved."""
        return self._pending_step if self._pending is not None else self._last_step

    @property
    def failure(self) -> CheckpointError | None:
        """The error of the newest save, if it failed; None again after a later one succeeds."""
        return self._failure

    def record_score(self, step: int, score: float) -> None:
        """Records the score of a step after all running saves, then prunes old checkpoints."""
        self.wait()
        try:
            self._store.record_score(step, score)
        except CheckpointError as error:
            self._listener.failed(step, str(error))
            raise
        self._prune()

    def poll(self) -> None:
        """Reports a finished save; raises CheckpointError if it failed."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Waits until all saves are on disk; raises CheckpointError if one failed."""
        failure = self._ended()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Waits without raising, for a run that is ending because of another error."""
        try:
            self.wait()
        except Exception as error:  # Not swallowed: logged here, as the run ends with its own error.
            _log.error("%s", error)
        finally:
            self._executor.shutdown(wait=True)

    def _ended(self) -> CheckpointError | None:
        """Waits for the running save and reports its end; returns the error if it failed."""
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        try:
            path, write_s = pending.result()
        except CheckpointError as error:
            self._failure = error
            self._listener.failed(self._pending_step, str(error))
            return error
        self._failure, self._last_step = None, self._pending_step
        self._listener.saved(self._pending_step, path, self._pending_stall_s, write_s)
        return None

    def _write(self, state: TrainingState) -> tuple[str, float]:
        begin = time.perf_counter()
        path = self._store.save(state)
        self._prune()
        return path, time.perf_counter() - begin

    def _prune(self) -> None:
        try:
            self._store.prune(self._retention)
        except CheckpointError as error:
            _log.warning("old checkpoints were not deleted: %s", error)
