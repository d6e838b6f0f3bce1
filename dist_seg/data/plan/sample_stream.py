"""An endless, shuffled stream of the samples of some shards. Any place of it is found without the places before.

In every epoch the shards are shuffled and joined, and samples are permuted in blocks of about `shuffle_window`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.shards.counts import locate_samples
from dist_seg.runtime.rng import generator, keyed_permutation


@dataclass(frozen=True, kw_only=True)
class _Epoch:
    """The layout of an epoch. Every part of a plan keeps some, so they take as few bytes as possible."""

    order: NDArray[np.unsignedinteger]
    """The stream's shards in this epoch's order."""
    ends: NDArray[np.unsignedinteger]
    """Cumulative sample counts in that order."""


class SampleStream:
    """A stream over shards with `shard_samples` samples each. name: distinguishes streams of the same seed.

    Can be pickled; the layouts of epochs are left out and found again.
    """

    def __init__(
        self, shard_samples: Sequence[int] | NDArray[np.integer], *, seed: int, shuffle_window: int, name: str = ""
    ) -> None:
        samples = np.asarray(shard_samples, dtype=np.int64)
        # Most shards may hold nothing of a part. A stream of all data keeps empty shards: its order counts them.
        shards = np.flatnonzero(samples) if name else np.arange(len(samples))
        self._shards = shards.astype(np.min_scalar_type(len(samples)))
        self._samples = samples[shards].astype(np.min_scalar_type(int(samples.max(initial=0))))
        self.num_samples = int(samples.sum())
        self._seed, self._key = seed, (name,) if name else ()
        self._num_blocks = -(-self.num_samples // shuffle_window)
        self._epochs: dict[int, _Epoch] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_epochs": {}}

    def locate(self, epoch: int, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shards of places in an epoch (below `num_samples`), and the indices in these shards."""
        layout = self._epoch(epoch)
        # Blocks differ by at most one sample: a short last block would be nearly unshuffled.
        blocks = ((slots + 1) * self._num_blocks - 1) // self.num_samples
        begins = blocks * self.num_samples // self._num_blocks
        sizes = (blocks + 1) * self.num_samples // self._num_blocks - begins
        key = ("block", self._seed, epoch, *self._key)
        positions = begins + keyed_permutation(slots - begins, sizes, *key, tweaks=blocks)
        places, indices = locate_samples(layout.ends, positions)
        return self._shards[layout.order[places]].astype(np.int64), indices

    def replacing(self, epoch: int, slot: int, attempts: NDArray[np.int64], span: range) -> NDArray[np.int64]:
        """The places of the candidates for a slot with a bad sample, by their numbers from 1.

        First come the other places of the span that the slot is in, each once, then the rest of the epoch. After that
        they repeat. Only a stream of one sample gives the sample itself.
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
            order = generator("shards", self._seed, epoch).permutation(len(self._shards))
            ends = np.cumsum(self._samples[order], dtype=np.int64)
            # Replaced, not changed: other threads read it. A loader that reads across a border needs two epochs.
            kept = {number: layout for number, layout in self._epochs.items() if abs(number - epoch) == 1}
            layout = _Epoch(
                order=order.astype(self._shards.dtype), ends=ends.astype(np.min_scalar_type(self.num_samples))
            )
            self._epochs = {**kept, epoch: layout}
        return layout
