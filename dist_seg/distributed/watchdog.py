"""A thread on every rank that ends all ranks when one fails or gets stuck, and reports which was the first.

When a rank breaks inside a step, its peers are already waiting for it in a collective, so the failure cannot be reduced
over ranks. The rank writes the cause on the board (`distributed/board.py`) and ends. The others notice by their broken
collective, or are ended from here: by this thread or, if some code holds the interpreter's lock, by a timer in C.
"""

import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist

from dist_seg.distributed.board import Board, FirstCause, behind, open_board, silent
from dist_seg.distributed.position import HERE
from dist_seg.distributed.rendezvous import Start
from dist_seg.distributed.world import World, named_ranks
from dist_seg.errors import RunFailedError, UserError

_log = logging.getLogger(__name__)

GROUP_MARGIN_S = 15.0
"""The process group's own timeout is this much longer than the watchdog's, whose message says more."""
_POLL_S = 0.5
# A rank whose interpreter's lock is held cannot be told to end. Its peers have ended; the launcher waits for it.
_LOCKED_MARGIN_S = 5.0
# Time for a rank to notice by itself, in its collective, that a peer is gone.
_GRACE_S = 5.0
# Time for a rank to end by itself, with a checkpoint that is being written, before it is ended from here.
_ENDING_S = 120.0
_LAST_WORDS_S = 20.0
_STDERR = 2  # sys.stderr may have no file descriptor.
_PEER_ERRORS = ("gloo/", "NCCL", "Connection closed by peer", "Connection reset by peer")


class Watchdog:
    """Watches the ranks until it is closed. Without a board (a single process) it does nothing."""

    def __init__(self, board: Board | None, *, world: World, timeout_s: float, poll_s: float = _POLL_S) -> None:
        self._board, self._world, self._timeout_s, self._poll_s = board, world, timeout_s, poll_s
        self._closed = threading.Event()
        self._cause: FirstCause | None = None
        self.last_words: Callable[[FirstCause], None] = lambda cause: None
        """Called just before the thread ends the process."""
        if board is not None:
            self._set_timer()  # Before the thread first runs: by then some code may hold the interpreter's lock.
            self._thread = threading.Thread(target=self._watch, name="dist-seg-watchdog", daemon=True)
            self._thread.start()

    @property
    def restarts(self) -> int:
        """How often the launcher started the ranks before."""
        return max(self._world.restarts, self._board.starts_before if self._board else 0)

    def check_worth_starting(self) -> None:
        """Raises the user's error that an earlier start of this launch met before its first step.

        Launchers restart after any failure, but such an error would only come again.
        """
        text = self._board.final_error() if self._board else None
        if text is not None:
            error = UserError(f"{text}\n(found at the first start; restarting the ranks cannot fix it)")
            error.shared = True
            raise error

    def cause_of(self, error: BaseException) -> FirstCause | None:
        """What ended the run, or None if it was this rank's own error, which is then told to the others.

        Every call returns the same answer.
        """
        if self._board is None:
            return None
        HERE.ending = True
        own = FirstCause(kind="error", ranks=(self._world.rank,), text=_message(error), trace=_trace(error))
        from_peers = _is_from_peers(error)
        try:
            if self._cause is None:
                self._cause = self._found(self._board, own.text) if from_peers else self._board.publish(own)
                if from_peers:
                    self._log_cause(self._cause)
        except RuntimeError:  # The store is gone, with rank 0 or with the launcher on its machine.
            self._cause = _LOST_STORE if from_peers else own
        return self._cause if from_peers else None

    def reports_for_all(self, cause: FirstCause | None) -> bool:
        """Whether this rank records how the run ended: rank 0 or, if that is stuck or lost, the next one."""
        cannot = cause.ranks if cause is not None and cause.kind != "error" else ()
        able = [rank for rank in range(self._world.size) if rank not in cannot]
        return self._world.is_main or (bool(able) and self._world.rank == able[0])

    def close(self, error: BaseException | None = None) -> None:
        """Stops watching, in order."""
        if self._board is None:
            return
        self._closed.set()
        self._thread.join(timeout=_LAST_WORDS_S)
        faulthandler.cancel_dump_traceback_later()
        try:
            if isinstance(error, UserError) and HERE.phase == "startup":
                self._board.end_for_good(str(error))
            self._board.tell(HERE, ended=True)
            if self._board.lives_here:
                self._wait_for_others(self._board, _LAST_WORDS_S if error is None else _GRACE_S)
        except RuntimeError:
            pass  # The store is gone: nobody is left to tell.
        if error is not None:
            # A process group whose peers are gone may block this process for ever.
            faulthandler.dump_traceback_later(_LAST_WORDS_S + _GRACE_S, exit=True, file=_STDERR)

    def _watch(self) -> None:
        assert self._board is not None
        while not self._closed.wait(self._poll_s):
            self._set_timer()
            try:
                self._board.tell(HERE)
                cause = self._board.cause()
                waited_s = HERE.waited_s
                if cause is None and waited_s > self._timeout_s:
                    cause = self._board.publish(self._stuck(self._board, waited_s))
            except RuntimeError:
                cause = _LOST_STORE
            if cause is not None:
                self._end(cause)
                return

    def _set_timer(self) -> None:
        """Sets a timer in C that dumps the stacks and ends this process, unless it is set again in time."""
        faulthandler.dump_traceback_later(self._timeout_s + _LOCKED_MARGIN_S, exit=True, file=_STDERR)

    def _found(self, board: Board, text: str) -> FirstCause:
        """Why a collective failed: the cause that a peer told, or the peer that no longer reports."""
        before = board.positions()
        deadline = time.monotonic() + 4 * self._poll_s
        while time.monotonic() < deadline:
            told = board.cause()
            if told is not None:
                return told
            time.sleep(self._poll_s / 4)
        lost = silent(before, board.positions())
        if lost:
            where = "; ".join(f"rank {rank} in {before[rank].description}" for rank in lost)
            text = f"exited without an error: {where}. It was killed from outside, or by the system when memory ran out"
            return board.publish(FirstCause(kind="lost", ranks=lost, text=text))
        text = f"a collective failed on rank {self._world.rank} in {HERE.description}, while every rank lives: {text}"
        return board.publish(FirstCause(kind="lost", ranks=(), text=text))

    def _stuck(self, board: Board, waited_s: float) -> FirstCause:
        positions = board.positions()
        late = behind(positions)
        rank, here = self._world.rank, positions[self._world.rank]
        waited = f"rank {rank} waited {waited_s:.0f} s in a collective ({here.description})"
        if not late:
            return FirstCause(kind="stuck", ranks=(), text=f"{waited}, in which every rank had arrived")
        doing = ", ".join(f"rank {number} in {positions[number].description}" for number in late)
        return FirstCause(
            kind="stuck",
            ranks=late,
            text=f"{waited} for {named_ranks(late)}, which did not arrive; last known: {doing}",
        )

    def _end(self, cause: FirstCause) -> None:
        """Ends this process unless it ends by itself in time."""
        noticed = time.monotonic()
        while cause.kind != "stuck":
            left_s = noticed + (_ENDING_S if HERE.ending else _GRACE_S) - time.monotonic()
            if left_s <= 0:
                break
            faulthandler.dump_traceback_later(left_s + _LAST_WORDS_S, exit=True, file=_STDERR)
            if self._closed.wait(min(left_s, self._poll_s)):
                return
        faulthandler.dump_traceback_later(_LAST_WORDS_S, exit=True, file=_STDERR)
        self._cause = cause
        self._log_cause(cause)
        _log.error("ending this rank in %s; the stacks of its threads:", HERE.description)
        faulthandler.dump_traceback(file=_STDERR, all_threads=True)
        self.last_words(cause)
        self._leave()

    def _log_cause(self, cause: FirstCause) -> None:
        if self.reports_for_all(cause):  # Otherwise every rank would log it.
            _log.error("%s%s", cause.message, f"\n{cause.trace}" * bool(cause.trace))

    def _leave(self) -> None:
        assert self._board is not None
        try:
            self._board.tell(HERE, ended=True)
            if self._board.lives_here:  # The others must read the cause before the store ends with this process.
                self._wait_for_others(self._board, _GRACE_S)
        except RuntimeError:
            pass  # The store is gone: nobody is left to tell.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _wait_for_others(self, board: Board, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if all(position.ended for position in board.positions()):
                return
            time.sleep(self._poll_s / 10)


_LOST_STORE = FirstCause(
    kind="lost",
    ranks=(0,),
    text="rank 0, or the launcher on its machine, exited without an error: the ranks' store no longer answers",
)


@contextmanager
def watched(world: World, start: Start | None, timeout_s: float, *, poll_s: float = _POLL_S) -> Iterator[Watchdog]:
    """Watches the ranks while the context lasts. Enter it inside `process_group`, with the start that this yields.

    A collective.

    An error that is only the consequence of another rank's error becomes a RunFailedError naming the first cause.
    """
    board = open_board(world, start, HERE) if start is not None else None
    watchdog = Watchdog(board, world=world, timeout_s=timeout_s, poll_s=poll_s)
    failure: BaseException | None = None
    try:
        yield watchdog
    except BaseException as error:
        failure = error
        cause = watchdog.cause_of(error)
        if cause is None:
            raise
        consequence = RunFailedError(cause.message)
        consequence.shared = not watchdog.reports_for_all(cause)
        raise consequence from error
    finally:
        watchdog.close(failure)


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError | RunFailedError) else f"{type(error).__name__}: {error}"


def _trace(error: BaseException) -> str:
    """The traceback of a bug, or of the cause of a run that failed for another reason."""
    shown = error.__cause__ if isinstance(error, UserError | RunFailedError) else error
    return "" if shown is None else "".join(traceback.format_exception(shown)).rstrip()


def _is_from_peers(error: BaseException) -> bool:
    """Whether the error comes from a failed collective, so that another rank is the cause."""
    behind_it: BaseException | None = error
    while behind_it is not None:
        if isinstance(behind_it, dist.DistError):
            return True
        if isinstance(behind_it, RuntimeError) and any(name in str(behind_it) for name in _PEER_ERRORS):
            return True
        behind_it = behind_it.__cause__ or behind_it.__context__
    return False
