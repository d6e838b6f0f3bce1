"""Counts of which there are very many: of every shard, the samples that hold each class."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

LARGEST = 2**64 - 1


class Counts(Sequence[int]):
    """Numbers from 0 to `LARGEST`, equal to a tuple of them, at 1 to 8 bytes each as the largest needs; a tuple takes 8
    and mostly 32 for the number.
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
