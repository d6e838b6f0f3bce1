"""Settings of the whole process that reading images steps aside from: Pillow's own limit of pixels, and warnings.

Threads read at once. So the first to come changes a setting, and the last to leave restores it: were each to restore
what it found, the last would leave what another had set.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from PIL import Image


class _SharedSetting:
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
    """Pillow's limit is global, and fixed: step aside for the caller's."""
    return _limit.used()


def no_warnings() -> AbstractContextManager[None]:
    """Of files that Pillow reads and has something to say about."""
    return _warnings.used()
