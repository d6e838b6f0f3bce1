"""Finds images that may be copies of each other, by their hashes.

Every hash is compared with every other one and with every mirrored one, in blocks, by counting bits. At 3 ns a pair,
100,000 images take a minute of one core and a million take an hour and a half. Only the few nearest of every image are
kept, so memory grows only with the number of images.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_DISTANCE = 60
"""Bits out of 256. 95% of the training images of CamVid, COCO and nuclei, cropped by 5%, differ from their originals by
at most 40, 49 and 61 bits. One in ten thousand pairs of different videos or photographs differs by at most about 63."""
_MAX_FIRST_DISTANCE = 22
"""Bits out of the 64 that are compared first: most pairs then cost one step instead of four."""
_FIRST_WORD = 1
"""`dhash`, which of the four hashes best separates different images of one kind."""
_BLOCK_PAIRS = 1 << 18
_NEAREST_ELSEWHERE, _NEAREST_IN_SEQUENCE = 3, 1


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Two rows; `first` is the smaller one."""

    first: int
    second: int
    mirrored: bool
    """Whether one looks like the mirror image of the other."""
    distance: int
    """Bits that differ."""


def find_candidates(
    words: NDArray[np.uint64],
    mirrored: NDArray[np.uint64],
    split: NDArray[np.integer],
    sequence: NDArray[np.integer],
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Candidate]:
    """The nearest pairs. words, mirrored: (N, 4); split, sequence: (N,), sequence is -1 for images in no sequence.

    Every image keeps its three nearest images within its split and in other splits, and for frames of its own sequence
    one more of each. `progress` gets the number of images compared with all others, and of all.
    """
    count = len(words)
    rows = max(1, _BLOCK_PAIRS // max(count, 1))
    starts = range(0, count, rows)
    first_words = np.ascontiguousarray(words[:, _FIRST_WORD])

    def search(start: int) -> list[Candidate]:
        stop = min(start + rows, count)
        found = []
        for flipped, queries in ((False, words), (True, mirrored)):
            found += list(_nearest(queries[start:stop], words, first_words, start, flipped, split, sequence))
        return found

    with ThreadPoolExecutor(max(1, threads)) as pool:  # counting bits releases the interpreter's lock
        unique: dict[tuple[int, int, bool], Candidate] = {}
        for start, found in zip(starts, pool.map(search, starts), strict=True):
            unique |= {(c.first, c.second, c.mirrored): c for c in found}
            if progress:
                progress(min(start + rows, count), count)
    return sorted(unique.values(), key=lambda c: (c.distance, c.first, c.second, c.mirrored))


def _nearest(
    queries: NDArray[np.uint64],
    words: NDArray[np.uint64],
    first_words: NDArray[np.uint64],
    start: int,
    mirrored: bool,
    split: NDArray[np.integer],
    sequence: NDArray[np.integer],
) -> Iterator[Candidate]:
    first = np.bitwise_count(queries[:, None, _FIRST_WORD] ^ first_words[None])
    # In two dimensions NumPy's nonzero takes eight times as long.
    row, other = np.divmod(np.flatnonzero(first <= _MAX_FIRST_DISTANCE), len(words))
    distance = np.bitwise_count(queries[row] ^ words[other]).sum(axis=1, dtype=np.int64)
    row += start
    near = (distance <= MAX_DISTANCE) & (row != other)
    row, other, distance = row[near], other[near], distance[near]
    elsewhere = split[row] != split[other]
    in_sequence = (sequence[row] >= 0) & (sequence[row] == sequence[other])
    # After sorting by row, kind of pair and distance, a pair's rank is its position in its run.
    kind = row * 4 + elsewhere * 2 + in_sequence
    order = np.lexsort((other, distance, kind))
    kind = kind[order]
    rank = np.arange(len(kind)) - np.searchsorted(kind, kind)
    kept = order[rank < np.where(in_sequence[order], _NEAREST_IN_SEQUENCE, _NEAREST_ELSEWHERE)]
    for a, b, bits in zip(row[kept].tolist(), other[kept].tolist(), distance[kept].tolist(), strict=True):
        yield Candidate(first=min(a, b), second=max(a, b), mirrored=mirrored, distance=bits)
