"""Counts of samples: very many of them in little memory, and samples found by their number among all shards."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

LARGEST = 2**64 - 1


class Counts(Sequence[int]):
    """Numbers from 0 to `LARGEST`, stored in 1 to 8 bytes each, depending on the largest. Equal to a tuple of them.

    A tuple takes 8 bytes for each reference, and mostly 32 for the number.
    """

    __slots__ = ("_numbers",)

    def __init__(self, numbers: Iterable[int]) -> None:
        given = numbers if isinstance(numbers, (list, tuple, Counts)) else tuple(numbers)
        bits = max(given, default=0).bit_length()
        self._numbers = array("B" if bits <= 8 else "H" if bits <= 16 else "I" if bits <= 32 else "Q", given)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> "Counts": ...
    def __getitem__(self, index: int | slice) -> "int | Counts":
        return self._numbers[index] if isinstance(index, int) else Counts(self._numbers[index])

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, (Counts, tuple)) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Counts({list(self)})"


def counts_hook(kind: type, value: object) -> object:
    """Hook of `documents.decode`: builds `Counts` from a JSON list, and returns other values unchanged.

    Raises ValueError for anything but a list of counts.
    """
    if kind is not Counts:
        return value
    match value:
        case list() if set(map(type, value)) <= {int} and (not value or 0 <= min(value) <= max(value) <= LARGEST):
            return Counts(value)
        case list():
            wrong = next(i for i, number in enumerate(value) if type(number) is not int or not 0 <= number <= LARGEST)
            raise ValueError(f"expected numbers from 0 to {LARGEST}, number {wrong} is {value[wrong]!r}")
    raise ValueError(f"expected a list of numbers from 0 to {LARGEST}")


def locate_samples(ends: NDArray[np.integer], numbers: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """The shards of samples that are counted through all shards, and the samples' indices in them, each (N,).

    ends: (shards,) the number of samples up to the end of each shard. numbers: (N,) from 0 and below the last end.
    """
    shards = np.searchsorted(ends, numbers.astype(ends.dtype), side="right")  # another type would copy `ends`
    begins = np.where(shards > 0, ends[shards - 1], 0).astype(np.int64)
    return shards, numbers - begins


def spread_samples(shard_samples: Sequence[int], count: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """`count` samples at equal distances over all shards, or every sample if there are fewer; as `locate_samples`."""
    ends = np.cumsum(shard_samples, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    count = min(count, total)
    return locate_samples(ends, np.arange(count) * total // max(count, 1))
