"""A `map` over processes. It keeps the order, holds few items, and ends with the process that started it."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from types import TracebackType
from typing import Self, TypeVar

from dist_seg.errors import DataError
from dist_seg.runtime.worker_process import begin_worker

T = TypeVar("T")
R = TypeVar("R")

_AHEAD_PER_WORKER = 4
_WORTH_A_PROCESS = 4
"""Fewer items than this are done sooner than a process starts."""


class Workers:
    """`count` processes that start with the first use. A count of 1 does the work in this process."""

    def __init__(self, count: int) -> None:
        self.count = max(1, count)
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """The results in the order of the items. A few items are taken in advance.

        Raises what the function raises, and `DataError` if a process ends unexpectedly.
        """
        items = iter(items)
        first = list(islice(items, _WORTH_A_PROCESS))
        items = chain(first, items)
        if self.count == 1 or len(first) < _WORTH_A_PROCESS:
            yield from map(function, items)
            return
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.count, mp_context=context, initializer=begin_worker)
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(self._executor.submit(function, item))
                if len(waiting) >= _AHEAD_PER_WORKER * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that looked at samples ended unexpectedly, perhaps because memory ran out; run again with "
                "fewer processes (--workers)"
            ) from error
