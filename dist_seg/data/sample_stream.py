"""An endless stream of the samples of some shards, epoch by epoch, any place of which is found without those before.

An epoch's shards are shuffled and laid end to end, and permuted inside blocks of about `shuffle_window` samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.runtime.streams import generator, keyed_permutation


@dataclass(frozen=True, kw_only=True)
class _Epoch:
    shards: NDArray[np.int64]
    """Shards in this epoch's order."""
    ends: NDArray[np.int64]
    """Cumulative sample counts in that order."""


class SampleStream:
    """The samples of shards that hold so many each. name: tells streams of one seed apart."""

    def __init__(self, shard_samples: Sequence[int], *, seed: int, shuffle_window: int, name: str = "") -> None:
        self._shard_samples = np.asarray(shard_samples, dtype=np.int64)
        self.num_samples = int(self._shard_samples.sum())
        self._seed, self._key = seed, (name,) if name else ()
        self._num_blocks = -(-self.num_samples // shuffle_window)
        self._epochs: dict[int, _Epoch] = {}

    def locate(self, epoch: int, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shards, and indices in them, of places in an epoch, which are below `num_samples`."""
        layout = self._epoch(epoch)
        # Blocks differ by at most one sample, so that no short last block is left nearly unshuffled.
        blocks = ((slots + 1) * self._num_blocks - 1) // self.num_samples
        begins = blocks * self.num_samples // self._num_blocks
        sizes = (blocks + 1) * self.num_samples // self._num_blocks - begins
        key = ("block", self._seed, epoch, *self._key)
        positions = begins + keyed_permutation(slots - begins, sizes, *key, tweaks=blocks)
        order = np.searchsorted(layout.ends, positions, side="right")
        shards = layout.shards[order]
        return shards, positions - (layout.ends[order] - self._shard_samples[shards])

    def replacing(self, epoch: int, slot: int, attempts: NDArray[np.int64], span: range) -> NDArray[np.int64]:
        """The places of what comes instead of the sample of a slot, by number from 1: first the others of the span that
        the slot lies in, each once, then the rest of the epoch; beyond that they come again.

        Only a stream of one sample gives that sample itself.
        """
        others, elsewhere = len(span) - 1, self.num_samples - len(span)
        if others + elsewhere == 0:
            return np.full_like(attempts, slot)
        numbers = (attempts - 1) % (others + elsewhere)
        near, slots = numbers < others, np.empty_like(numbers)
        key = ("replacement", self._seed, epoch, slot, *self._key)
        if near.any():
            drawn = span.start + keyed_permutation(numbers[near], others, *key)
            slots[near] = drawn + (drawn >= slot)  # past the slot itself
        if not near.all():
            drawn = keyed_permutation(numbers[~near] - others, elsewhere, *key, "elsewhere")
            slots[~near] = drawn + np.where(drawn >= span.start, len(span), 0)  # past the span
        return slots

    def _epoch(self, epoch: int) -> _Epoch:
        layout = self._epochs.get(epoch)
        if layout is None:
            shards = generator("shards", self._seed, epoch).permutation(len(self._shard_samples))
            # Replaced, not changed: threads read it. Two epochs are needed while a loader reads across their border.
            kept = {number: layout for number, layout in self._epochs.items() if abs(number - epoch) == 1}
            layout = _Epoch(shards=shards, ends=np.cumsum(self._shard_samples[shards]))
            self._epochs = {**kept, epoch: layout}
        return layout
