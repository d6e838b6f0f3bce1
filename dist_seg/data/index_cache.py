"""The indexes of shards that were read last, so that a sample does not take reading its shard's index anew."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

MAX_INDEX_BYTES = 64 << 20
"""Of about half a million samples, in however small shards."""


class Sized(Protocol):
    """An index, and what is kept beside it."""

    @property
    def num_bytes(self) -> int:
        """What it takes in memory, about."""
        ...


K = TypeVar("K")
Index = TypeVar("Index", bound=Sized)


class IndexCache(Generic[K, Index]):
    """Of the indexes that were asked for, the last ones up to `max_bytes`, and the very last in any case.

    May be used from several threads.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._indexes: OrderedDict[K, Index] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: K, read: Callable[[], Index]) -> Index:
        """The index of that key; `read` is called where it is not among those that are kept."""
        with self._lock:
            if key in self._indexes:
                self._indexes.move_to_end(key)
                return self._indexes[key]
        index = read()
        with self._lock:
            if key not in self._indexes:  # another thread may have been faster
                self._indexes[key] = index
                self._num_bytes += index.num_bytes
            while self._num_bytes > self._max_bytes and len(self._indexes) > 1:
                _, dropped = self._indexes.popitem(last=False)
                self._num_bytes -= dropped.num_bytes
        return index
