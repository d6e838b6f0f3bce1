"""Finds videos among the samples: keys that differ only in a trailing frame number, and similar consecutive pictures.

Many data sets also number unrelated pictures. So keys alone do not make a video: a fifth of the pictures must look like
the picture before.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.inspection.duplicates.compare import in_place

_NUMBERED = re.compile(r"(.*?)(\d+)", re.ASCII | re.DOTALL)
_MIN_FRAMES = 3
_LIKE_THE_ONE_BEFORE = 0.5
_SHARE_OF_A_VIDEO = 0.2


def frame_number(key: str) -> tuple[str, int] | None:
    """The key without its trailing number, and the number; None without one."""
    match = _NUMBERED.fullmatch(key)
    return (match[1], int(match[2])) if match else None


def name_in_split(key: str, split: str) -> str:
    """The key without the folder of its split, with which keys begin in data sets that are packed from folders."""
    return key.removeprefix(f"{split}__")


def find_sequences(keys: Sequence[str], thumbnails: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(N,) the number of each sample's video; -1 for samples in no video. thumbnails: (N, 32, 32)."""
    groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row, key in enumerate(keys):
        if found := frame_number(key):
            groups[found[0]].append((found[1], row))
    sequence = np.full(len(keys), -1, np.int32)
    number = 0
    for frames in groups.values():
        if len(frames) < _MIN_FRAMES:
            continue
        rows = [row for _, row in sorted(frames)]
        if np.mean(in_place(thumbnails[rows]) > _LIKE_THE_ONE_BEFORE) >= _SHARE_OF_A_VIDEO:
            sequence[rows] = number
            number += 1
    return sequence
