"""Saving beside the training: the loop waits for the copy of the tensors, not for the disk."""

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
    """What is told of saves, in the thread that calls the writer."""

    def saved(self, step: int, path: str, stall_s: float, write_s: float) -> None:
        """A state is whole on storage; the caller waited `stall_s` for it."""
        ...

    def failed(self, step: int, reason: str) -> None: ...


class CheckpointWriter:
    """Writes the states it is given one after the other in a thread of its own; lives on rank 0."""

    def __init__(
        self, store: CheckpointStore, retention: Retention, listener: SaveListener, last_step: int | None = None
    ) -> None:
        """last_step: the step that is on disk already, if training goes on from one of this store."""
        self._store, self._retention, self._listener = store, retention, listener
        # At the usual priority: a thread with a lower one, put off while it holds the interpreter's lock, has the
        # training wait for it.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._buffers = SnapshotBuffers()
        self._pending: Future[tuple[str, float]] | None = None
        self._pending_step, self._pending_stall_s = 0, 0.0
        self._last_step = last_step
        self._failure: CheckpointError | None = None

    def save(self, take_state: Callable[[SnapshotBuffers], TrainingState]) -> float:
        """Copies the state and has it written; returns the seconds that the caller waited.

        Waits for the save before, if that is still under way: at most one copy is held, in the buffers that
        `take_state` gets. Raises CheckpointError if the save before has failed, after this one is under way.
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
        """Whether a save is under way."""
        return self._pending is not None and not self._pending.done()

    @property
    def last_step(self) -> int | None:
        """The newest step that was saved, whole or under way."""
        return self._pending_step if self._pending is not None else self._last_step

    @property
    def failure(self) -> CheckpointError | None:
        """Why the newest save has failed, if it has; None again once a later one is whole."""
        return self._failure

    def record_score(self, step: int, score: float) -> None:
        """Has the score of a step remembered, after the saves before, and prunes by it."""
        self.wait()
        try:
            self._store.record_score(step, score)
        except CheckpointError as error:
            self._listener.failed(step, str(error))
            raise
        self._prune()

    def poll(self) -> None:
        """Reports a save that has finished; raises CheckpointError if it failed."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Waits until everything handed over is on disk; raises CheckpointError if it is not."""
        failure = self._ended()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Waits, without raising: used when the run is failing for another reason."""
        try:
            self.wait()
        except Exception as error:  # Not swallowed: said here, where the run is ending for a reason of its own.
            _log.error("%s", error)
        finally:
            self._executor.shutdown(wait=True)

    def _ended(self) -> CheckpointError | None:
        """Waits for the save under way, and tells of its end; the error of one that failed."""
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
