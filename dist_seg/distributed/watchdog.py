"""A thread of every rank that ends all of them when one fails or gets stuck, and tells which one was the first.

What breaks a rank inside a step cannot be reduced over ranks first, because its peers wait for it in a collective. It
writes the cause on the board (`distributed/board.py`) and ends. The others are told by their broken collective, or
they are ended from here: by the second thread, or, where some code holds the interpreter's lock, by a timer of C.
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
from dist_seg.distributed.world import World
from dist_seg.errors import RunFailedError, UserError

_log = logging.getLogger(__name__)

GROUP_MARGIN_S = 15.0
"""The process group's own timeout is to be this much longer than the watchdog's, which tells more."""
_POLL_S = 0.5
# A rank that holds the interpreter's lock cannot be told to end: its peers have, and the launcher still waits for it.
_LOCKED_MARGIN_S = 5.0
# What a rank is left to notice by itself, in its collective, that a peer is gone.
_GRACE_S = 5.0
# What it is left on its way out, with a checkpoint that is being written, before it is ended from here.
_ENDING_S = 120.0
_LAST_WORDS_S = 20.0
_STDERR = 2  # What Python calls so may be something without a descriptor.
_OF_PEERS = ("gloo/", "NCCL", "Connection closed by peer", "Connection reset by peer")


class Watchdog:
    """Watches until it is closed. Without a board (a single process) it has nothing to watch."""

    def __init__(self, board: Board | None, *, world: World, timeout_s: float, poll_s: float = _POLL_S) -> None:
        self._board, self._world, self._timeout_s, self._poll_s = board, world, timeout_s, poll_s
        self._closed = threading.Event()
        self._cause: FirstCause | None = None
        self.last_words: Callable[[FirstCause], None] = lambda cause: None
        """Called before the thread ends the process."""
        if board is not None:
            self._set_timer()  # Before the thread's first turn: by then some code may hold the interpreter's lock.
            self._thread = threading.Thread(target=self._watch, name="dist-seg-watchdog", daemon=True)
            self._thread.start()

    @property
    def restarts(self) -> int:
        """How often the launcher has started the ranks before."""
        return max(self._world.restarts, self._board.starts_before if self._board else 0)

    def check_worth_starting(self) -> None:
        """Raises the user's error that an earlier start of this launch met before its first step.

        Launchers restart on any failure, and such a one comes again.
        """
        text = self._board.final_error() if self._board else None
        if text is not None:
            error = UserError(f"{text}\n(found at the first start; to start the ranks again cannot mend it)")
            error.shared = True
            raise error

    def cause_of(self, error: BaseException) -> FirstCause | None:
        """What ended the run, if it was not this rank's own error that did; tells the others of one that did.

        The same answer however often it is asked.
        """
        if self._board is None:
            return None
        HERE.ending = True
        own = FirstCause(kind="error", ranks=(self._world.rank,), text=_words(error), trace=_trace(error))
        from_peers = _is_from_peers(error)
        try:
            if self._cause is None:
                self._cause = self._found(self._board, own.text) if from_peers else self._board.publish(own)
                if from_peers:
                    self._log_cause(self._cause)
        except RuntimeError:  # The store is gone, and rank 0 with it, or the launcher of its machine.
            self._cause = _LOST_STORE if from_peers else own
        return self._cause if from_peers else None

    def reports_for_all(self, cause: FirstCause | None) -> bool:
        """Whether this rank writes down how the run has ended: rank 0, or where that one cannot, the next."""
        cannot = cause.ranks if cause is not None and cause.kind != "error" else ()
        able = [rank for rank in range(self._world.size) if rank not in cannot]
        return self._world.is_main or (bool(able) and self._world.rank == able[0])

    def close(self, error: BaseException | None = None) -> None:
        """Ends the watch in order."""
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
            pass  # The store is gone: nobody is left to be told.
        if error is not None:
            # A process group whose peers are gone may never let go of this process.
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
        """Ends this process from C, with its stacks, unless it is set again in time."""
        faulthandler.dump_traceback_later(self._timeout_s + _LOCKED_MARGIN_S, exit=True, file=_STDERR)

    def _found(self, board: Board, text: str) -> FirstCause:
        """The cause of a collective that has failed: what a peer has told, or which peer says nothing any more."""
        before = board.positions()
        deadline = time.monotonic() + 4 * self._poll_s
        while time.monotonic() < deadline:
            told = board.cause()
            if told is not None:
                return told
            time.sleep(self._poll_s / 4)
        lost = silent(before, board.positions())
        if lost:
            where = "; ".join(f"rank {rank} in {before[rank].words}" for rank in lost)
            text = f"ended without a word: {where}. It was killed from outside, or by the system for want of memory"
            return board.publish(FirstCause(kind="lost", ranks=lost, text=text))
        text = f"a collective failed on rank {self._world.rank} in {HERE.words}, while every rank lives: {text}"
        return board.publish(FirstCause(kind="lost", ranks=(), text=text))

    def _stuck(self, board: Board, waited_s: float) -> FirstCause:
        positions = board.positions()
        late = behind(positions)
        rank, here = self._world.rank, positions[self._world.rank]
        waited = f"rank {rank} waited {waited_s:.0f} s in a collective ({here.words})"
        if not late:
            return FirstCause(kind="stuck", ranks=(), text=f"{waited}, in which every rank had arrived")
        doing = ", ".join(f"rank {number} in {positions[number].words}" for number in late)
        return FirstCause(
            kind="stuck",
            ranks=late,
            text=f"{waited} for ranks {list(late)}, which did not arrive; last heard of: {doing}",
        )

    def _end(self, cause: FirstCause) -> None:
        """Ends this process, unless it ends by itself in time."""
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
        _log.error("this rank is ended in %s; the stacks of its threads:", HERE.words)
        faulthandler.dump_traceback(file=_STDERR, all_threads=True)
        self.last_words(cause)
        self._leave()

    def _log_cause(self, cause: FirstCause) -> None:
        if self.reports_for_all(cause):  # Else every rank would say the same.
            _log.error("%s%s", cause.words, f"\n{cause.trace}" * bool(cause.trace))

    def _leave(self) -> None:
        assert self._board is not None
        try:
            self._board.tell(HERE, ended=True)
            if self._board.lives_here:  # The others must read the cause before the store ends with this process.
                self._wait_for_others(self._board, _GRACE_S)
        except RuntimeError:
            pass  # The store is gone: nobody is left to be told.
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
    text="rank 0, or the launcher on its machine, ended without a word: the ranks' store does not answer any more",
)


@contextmanager
def watched(world: World, start: Start | None, timeout_s: float, *, poll_s: float = _POLL_S) -> Iterator[Watchdog]:
    """Watches over the ranks while the context lasts; enter it inside of the process group, with the start that this
    gives. A collective.

    An error that is but the consequence of another rank's becomes a RunFailedError that names the first cause.
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
        consequence = RunFailedError(cause.words)
        consequence.shared = not watchdog.reports_for_all(cause)
        raise consequence from error
    finally:
        watchdog.close(failure)


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError | RunFailedError) else f"{type(error).__name__}: {error}"


def _trace(error: BaseException) -> str:
    """The traceback of a bug, or of what lies behind a run that has failed for another reason."""
    shown = error.__cause__ if isinstance(error, UserError | RunFailedError) else error
    return "" if shown is None else "".join(traceback.format_exception(shown)).rstrip()


def _is_from_peers(error: BaseException) -> bool:
    """Whether a collective has failed under this rank, which is no cause of its own."""
    behind_it: BaseException | None = error
    while behind_it is not None:
        if isinstance(behind_it, dist.DistError):
            return True
        if isinstance(behind_it, RuntimeError) and any(name in str(behind_it) for name in _OF_PEERS):
            return True
        behind_it = behind_it.__cause__ or behind_it.__context__
    return False
