"""How far a command is."""

from typing import Self

from dist_seg.telemetry.progress import ProgressDisplay


class Bar:
    """A progress display that begins when the total is known."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._display: ProgressDisplay | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave it as it is; it may be closed again."""
        if self._display is not None:
            self._display.close()

    def show(self, done: int, total: int) -> None:
        if self._display is None:
            self._display = ProgressDisplay(total, self._label)
        self._display.update(done)
