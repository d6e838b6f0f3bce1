"""Finds images that are in the data twice: with the same pixels, as copies that were encoded, scaled, cropped or
mirrored, or as neighbouring frames of a video.

Thresholds were set on the training splits of CamVid, COCO and nuclei and on synthetic copies of them (JPEG quality 40
and 80, scaled, cropped by up to 10%, mirrored). Copies correlate by at least 0.89. Images of different videos correlate
by at most 0.53, different photographs by at most 0.63, different microscope pictures by at most 0.75.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.inspection.duplicates.candidates import Candidate, find_candidates
from dist_seg.data.inspection.duplicates.compare import similarity
from dist_seg.data.inspection.duplicates.sequences import find_sequences

MIN_COPY = 0.85
"""Smallest correlation of two images that count as copies."""
MIN_FRAME = 0.6
"""Smallest correlation of two frames of one sequence that count as alike."""
_MIN_CONTRAST = 2.0
"""Grey levels. Hashes of images with less contrast say nothing; images with the same pixels are found anyway."""

_PAIRS_AT_ONCE = 64

Pictures = Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""Pairs of thumbnails."""


class Spread(Protocol):
    """`map`, or a `map` over processes."""

    def __call__(
        self, function: Callable[[Pictures], list[float]], parts: Iterable[Pictures], /
    ) -> Iterable[list[float]]: ...


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """Two rows of the table; `first` is the smaller one."""

    first: int
    second: int
    similarity: float
    """1 for the same pixels."""
    mirrored: bool = False


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The pairs, the most similar first. An image that resembles several frames of one sequence is paired only with the
    most similar one."""

    same_pixels: tuple[Duplicate, ...]
    """Pairs of each image and the first one with the same pixels, in its own split and in every other split."""
    copies: tuple[Duplicate, ...]
    frames: tuple[Duplicate, ...]
    """Frames of one sequence that look alike: each frame with the nearest one in its own split and in other splits."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """The traits by which N images are compared."""

    keys: Sequence[str]
    """Their names, by which frames of one sequence are found."""
    split: NDArray[np.integer]
    """(N,) the number of each image's split."""
    digests: NDArray[np.uint64]
    """(N, 2) hashes of the pixels, which only the same pixels share."""
    thumbnails: NDArray[np.uint8]
    """(N, 32, 32)."""
    words: NDArray[np.uint64]
    """(N, 4) hashes that are near for images that look alike."""
    mirrored: NDArray[np.uint64]
    """(N, 4) the same of the mirrored images."""


def find_duplicates(
    images: Traits,
    *,
    threads: int = 1,
    spread: Spread = map,
    searching: Callable[[int, int], None] | None = None,
    comparing: Callable[[int, int], None] | None = None,
) -> Duplicates:
    """Compares the images. `spread` is `map` or a `map` over processes. The callbacks get the number done and of all:
    `searching` for hashes compared with all others, `comparing` for pairs of pictures.
    """
    same, stand_ins = _same_pixels(images.digests, images.split)
    rows = np.array([row for row in stand_ins if images.thumbnails[row].std() >= _MIN_CONTRAST], np.intp)
    pictures, digests, split = images.thumbnails[rows], images.digests[rows], images.split[rows]
    sequence = find_sequences([images.keys[row] for row in rows], pictures)
    near = find_candidates(
        images.words[rows], images.mirrored[rows], split, sequence, threads=threads, progress=searching
    )
    found = [pair for pair in near if (digests[pair.first] != digests[pair.second]).any()]
    copies, frames = [], []
    for pair in _compared(found, pictures, spread, comparing):
        a, b = pair.first, pair.second
        if sequence[a] >= 0 and sequence[a] == sequence[b] and not pair.mirrored:
            frames.append(pair)
        elif pair.similarity >= MIN_COPY:
            copies.append(pair)
    return Duplicates(
        same_pixels=tuple(same),
        copies=_of_rows(_without_neighbours(_each_once(copies), split, sequence), rows),
        frames=_of_rows(sorted(frames, key=_most_similar_first), rows),
    )


def _compared(
    found: Sequence[Candidate],
    thumbnails: NDArray[np.uint8],
    spread: Spread,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Duplicate]:
    """The candidates whose pictures are alike."""
    parts = [found[start : start + _PAIRS_AT_ONCE] for start in range(0, len(found), _PAIRS_AT_ONCE)]
    pictures = (
        [(thumbnails[c.first][:, ::-1] if c.mirrored else thumbnails[c.first], thumbnails[c.second]) for c in part]
        for part in parts
    )
    done = 0
    for part, correlations in zip(parts, spread(_similarities, pictures), strict=True):
        for c, correlation in zip(part, correlations, strict=True):
            if correlation >= MIN_FRAME:
                yield Duplicate(first=c.first, second=c.second, similarity=correlation, mirrored=c.mirrored)
        done += len(part)
        if progress:
            progress(done, len(found))


def _similarities(pictures: Pictures) -> list[float]:
    return [similarity(first, second) for first, second in pictures]


def _same_pixels(digests: NDArray[np.uint64], split: NDArray[np.integer]) -> tuple[list[Duplicate], list[int]]:
    """The pairs with the same pixels, and for every picture one row in each split that stands for the other ones."""
    rows_of: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, digest in enumerate(digests.tolist()):
        rows_of[tuple(digest)].append(row)
    pairs: list[Duplicate] = []
    stand_ins: list[int] = []
    for rows in rows_of.values():
        first_of: dict[int, int] = {}
        for row in rows:
            own = int(split[row])
            if own in first_of:
                pairs.append(Duplicate(first=first_of[own], second=row, similarity=1.0))
                continue
            pairs += [Duplicate(first=other, second=row, similarity=1.0) for other in first_of.values()]
            first_of[own] = row
        stand_ins += first_of.values()
    return pairs, sorted(stand_ins)


def _most_similar_first(pair: Duplicate) -> tuple[float, int, int]:
    return -pair.similarity, pair.first, pair.second


def _each_once(pairs: Sequence[Duplicate]) -> list[Duplicate]:
    """Every pair once: a symmetric picture resembles another picture and its mirror image."""
    best: dict[tuple[int, int], Duplicate] = {}
    for pair in sorted(pairs, key=_most_similar_first):
        best.setdefault((pair.first, pair.second), pair)
    return list(best.values())


def _without_neighbours(
    pairs: Sequence[Duplicate], split: NDArray[np.integer], sequence: NDArray[np.int32]
) -> list[Duplicate]:
    """Keeps only the most similar frame of each split: a copy of a frame also resembles the frames around it."""
    taken: set[tuple[int, int, int]] = set()
    kept = []
    for pair in pairs:
        ends = ((pair.first, pair.second), (pair.second, pair.first))
        claims = [(own, int(sequence[other]), int(split[other])) for own, other in ends if sequence[other] >= 0]
        if not taken.intersection(claims):
            kept.append(pair)
            taken.update(claims)
    return kept


def _of_rows(pairs: Sequence[Duplicate], rows: NDArray[np.intp]) -> tuple[Duplicate, ...]:
    return tuple(
        Duplicate(
            first=int(rows[pair.first]),
            second=int(rows[pair.second]),
            similarity=pair.similarity,
            mirrored=pair.mirrored,
        )
        for pair in pairs
    )
