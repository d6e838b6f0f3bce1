"""One table of all samples that were looked at, over all splits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.inspection.findings import MAX_EXAMPLES, Example, Place
from dist_seg.data.inspection.samples.look import Looked
from dist_seg.data.inspection.samples.measures import MEASURES, classes_present


@dataclass(frozen=True, kw_only=True)
class SampleTable:
    """N samples. The rows of a split are adjacent, in the order of its shards."""

    splits: tuple[str, ...]
    keys: tuple[str, ...]
    split: NDArray[np.int16]
    """(N,) each row's index into `splits`."""
    records: NDArray[np.void]
    """(N,) of `MEASURES`."""
    num_classes: int

    @classmethod
    def of(cls, looked: Mapping[str, Looked], num_classes: int) -> "SampleTable":
        counts = [len(found.keys) for found in looked.values()]
        return cls(
            splits=tuple(looked),
            keys=tuple(key for found in looked.values() for key in found.keys),
            split=np.repeat(np.arange(len(looked)), counts).astype(np.int16),
            records=np.concatenate([np.zeros(0, MEASURES), *(found.records for found in looked.values())]),
            num_classes=num_classes,
        )

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """(N, classes): whether a sample has a class."""
        return classes_present(self.records, self.num_classes)

    def rows(self, split: str) -> NDArray[np.intp]:
        return np.flatnonzero(self.split == self.splits.index(split))

    def split_of(self, row: int) -> str:
        return self.splits[int(self.split[row])]

    def place(self, row: int) -> Place:
        record = self.records[row]
        return Place(
            split=self.split_of(row), key=self.keys[row], shard=int(record["shard"]), index=int(record["index"])
        )

    def by_key(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """The rows in the order of their keys, because shards are shuffled."""
        return np.array(sorted(rows.tolist(), key=lambda row: self.keys[row]), np.intp)

    def examples(self, rows: Iterable[int], what: Iterable[str] | None = None) -> tuple[Example, ...]:
        """Examples of the first rows, with a remark on each."""
        some = [int(row) for row in rows][:MAX_EXAMPLES]
        remarks = iter(what) if what is not None else iter([""] * len(some))
        return tuple(
            Example(places=(self.place(row),), what=remark) for row, remark in zip(some, remarks, strict=False)
        )
