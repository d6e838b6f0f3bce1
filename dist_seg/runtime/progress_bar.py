"""Shows the progress of a command on standard error: a bar on a terminal, otherwise a log line now and then."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

_REDRAW_S = 0.25
_LINE_FRACTION = 0.1
_LINE_AT_MOST_EVERY_S = 2.0
_LINE_AT_LEAST_EVERY_S = 30.0


OnProgress = Callable[[int, int], None]
"""Called with the number of samples, shards or bytes done, and their total."""


class ProgressDisplay:
    """A bar or log lines for `total` units of work; use as a context manager or close it.

    On a terminal the bar is drawn by the calling thread, four times a second at most. Elsewhere a line is logged after
    every tenth of the work (not within two seconds of the last) and every 30 s.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        done: int = 0,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._label, self._done, self._clock = total, label, done, clock
        self._started_s = self._drawn_s = clock()
        self._started_at = self._drawn_at = done
        self._text = ""
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if sys.stderr.isatty() if terminal is None else terminal:
            self._bar = _drawn_bar()
            self._task = self._bar.add_task(label, total=total, completed=done, text="")
            self._bar.start()

    def advance(self, count: int = 1, text: str = "") -> None:
        """Report `count` more units as done. `text` is shown beside the bar."""
        self.update(self._done + count, text)

    def update(self, done: int, text: str = "") -> None:
        """Report that `done` units are done in total."""
        self._done, self._text = done, text
        now_s = self._clock()
        since_s = now_s - self._drawn_s
        if self._bar is not None:
            if since_s < _REDRAW_S:
                return
            self._draw(self._bar)
        elif not (
            since_s >= _LINE_AT_LEAST_EVERY_S
            or (since_s >= _LINE_AT_MOST_EVERY_S and done - self._drawn_at >= _LINE_FRACTION * self._total)
        ):
            return
        else:
            self._log(now_s)
        self._drawn_s, self._drawn_at = now_s, done

    def close(self) -> None:
        """Leave the last state of the bar on the screen; without a terminal, log work that was not reported yet."""
        if self._bar is not None:
            self._draw(self._bar)
            self._bar.stop()
            self._bar = None
        elif self._done > self._drawn_at > self._started_at:
            self._log(self._clock())
        self._drawn_at = self._done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _draw(self, bar: Progress) -> None:
        bar.update(self._task, completed=self._done, text=self._text)
        bar.refresh()

    def _log(self, now_s: float) -> None:
        rate = (self._done - self._started_at) / max(now_s - self._started_s, 1e-9)
        left = f", {duration((self._total - self._done) / rate)} left" if rate > 0 and self._done < self._total else ""
        text = f", {self._text}" if self._text else ""
        share = self._done / self._total if self._total else 1.0
        logger.info("%s: %d of %d (%.0f%%)%s%s", self._label, self._done, self._total, 100 * share, text, left)


def progress(total: int, label: str, *, show: bool = True) -> ProgressDisplay:
    """The display for a command's work. With `show=False`, for other ranks, it shows nothing."""
    return ProgressDisplay(total, label) if show else _Silent(total, label, terminal=False)


class _Silent(ProgressDisplay):
    def update(self, done: int, text: str = "") -> None:
        pass

    def close(self) -> None:
        pass


def _drawn_bar() -> Progress:
    # No refresh thread: it would interrupt the training step at any time.
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        auto_refresh=False,
        expand=True,
    )


def duration(seconds: float) -> str:
    """A duration as text: 42 s, 3 min 05 s, 2 h 07 min, 3 d 04 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


class Bar:
    """A progress display that starts once the total is known."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._display: ProgressDisplay | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the display. It may be closed again."""
        if self._display is not None:
            self._display.close()

    def show(self, done: int, total: int) -> None:
        if self._display is None:
            self._display = ProgressDisplay(total, self._label)
        self._display.update(done)


class SharedCount:
    """Adds up the work of several threads for a progress callback."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self._lock, self._done, self._total, self._on_progress = threading.Lock(), 0, total, on_progress

    def add(self, count: int) -> None:
        if self._on_progress:
            with self._lock:
                self._done += count
                self._on_progress(self._done, self._total)
