"""Two settings of the whole process that are changed while images are read: Pillow's limit of pixels, and warnings.

Several threads read at once. The first one to start changes a setting and the last one to finish restores it. If each
thread restored the value it had found, the last one would restore a value that another thread had set.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from PIL import Image


class _SharedSetting:
    """A setting that is changed while at least one thread uses it."""

    def __init__(self, changed: Callable[[], AbstractContextManager[None]]) -> None:
        self._changed, self._restoring = changed, ExitStack()
        self._lock, self._users = threading.Lock(), 0

    @contextmanager
    def used(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._restoring.enter_context(self._changed())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._restoring.close()


@contextmanager
def _without_limit() -> Iterator[None]:
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_limit, _warnings = _SharedSetting(_without_limit), _SharedSetting(_without_warnings)


def own_limit() -> AbstractContextManager[None]:
    """Turns off Pillow's limit of pixels, which is one for the whole process. The caller checks its own limit."""
    return _limit.used()


def no_warnings() -> AbstractContextManager[None]:
    """Silences Pillow's warnings about files that it can read."""
    return _warnings.used()
