"""SIGTERM and Ctrl-C as a request to stop, which the training loop follows between two steps."""

import signal
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A Ctrl-C in a terminal reaches the ranks twice, directly and through torchrun. A third one comes from the user.
_INSISTING = 3


class StopSignal:
    """A context manager for the main thread; `requested` is True once a signal has arrived."""

    def __init__(self) -> None:
        self.requested = False
        self._interrupts = 0

    def __enter__(self) -> "StopSignal":
        self._previous = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._interrupts += number == signal.SIGINT
        if self._interrupts >= _INSISTING:
            raise KeyboardInterrupt
