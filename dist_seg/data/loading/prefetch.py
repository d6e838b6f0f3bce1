"""Runs a generator ahead of its consumer, in a thread of its own."""

import atexit
import queue
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")

_POLL_S = 0.1
_LONGEST_END_S = 60.0


@dataclass(frozen=True)
class _End:
    """The generator is exhausted or, with an error, has failed."""

    error: BaseException | None = None


def in_background(items: Generator[T, None, None], *, ahead: int) -> Generator[T, None, None]:
    """Yields the items, and makes up to `ahead` of them in advance. An error is raised where its item would come.

    torch's kernels run on one core in that thread. The thread starts with the first item and ends with `close()`.
    """
    waiting: queue.Queue[T | _End] = queue.Queue(maxsize=ahead)
    stopped, started = threading.Event(), threading.Event()

    def produce() -> None:
        torch.set_num_threads(1)  # for this thread, and the default for threads that start later
        started.set()
        end = _End()
        try:
            for item in items:
                if not _put(waiting, item, stopped):
                    break
        except BaseException as error:  # the consumer handles it, whatever it is
            end = _End(error)
        finally:
            items.close()
        _put(waiting, end, stopped)

    def stop() -> None:
        stopped.set()
        thread.join(_LONGEST_END_S)

    thread = threading.Thread(target=produce, name="loader", daemon=True)
    # If the process ends without close(), after an error for example, the thread must not be left in native code.
    atexit.register(stop)
    thread.start()
    started.wait()
    torch.set_num_threads(torch.get_num_threads())  # threads that start later get the consumer's number again
    try:
        while True:
            item = waiting.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stop()
        atexit.unregister(stop)


def _put(waiting: "queue.Queue[T | _End]", item: T | _End, stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            waiting.put(item, timeout=_POLL_S)
        except queue.Full:
            continue
        return True
    return False
