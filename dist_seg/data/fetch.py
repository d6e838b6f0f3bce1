"""From a place in the plan to a sample with its drawn transform; what takes a bad sample's place is decided here.

Both loaders get their samples from here, and tell it what they cannot decode, so they end up with the same ones.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from dist_seg.config.schema import AugmentConfig, DataConfig
from dist_seg.data.augment import SampleTransform, draw, eval_transform, input_factor
from dist_seg.data.batch import BadSample, EncodedSample
from dist_seg.data.plan import EvalPlan, PlannedSample, TrainPlan
from dist_seg.data.reader import BadSampleError, ShardReader
from dist_seg.errors import DataError
from dist_seg.runtime.streams import generator

MAX_REPLACEMENTS = 16
"""Bad candidates in a row for one slot, after which the data is taken to be broken as a whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A place in a batch."""

    step: int
    planned: PlannedSample


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A sample for a slot, or in evaluation none."""

    slot: Slot
    shard: str
    encoded: EncodedSample | None
    transform: SampleTransform | None
    bad: tuple[BadSample, ...] = ()
    """The candidates before it, which cannot be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnSample:
    """What a loader needs to make its part of a batch."""

    encoded: EncodedSample
    transform: SampleTransform


Unit = TypeVar("Unit")
Unit_contra = TypeVar("Unit_contra", contravariant=True)


class Fetcher(Protocol[Unit_contra]):
    """A unit is what becomes one micro-batch: (step, lane) in training, the batch's number in evaluation."""

    def slots(self, unit: Unit_contra) -> list[Slot]: ...

    def fetch(self, slot: Slot) -> Fetched:
        """Read and draw. Raises DataError where reading fails or replacements run out."""
        ...

    def reject(self, fetched: Fetched, reason: str) -> Fetched:
        """The sample cannot be decoded: what comes instead."""
        ...


class TrainFetcher:
    """Replaces a bad sample by the plan's next candidate. May be pickled."""

    def __init__(
        self,
        reader: ShardReader,
        plan: TrainPlan,
        augment: AugmentConfig,
        *,
        data: DataConfig,
        crop: tuple[int, int],
        seed: int,
    ) -> None:
        self._reader, self._plan, self._augment = reader, plan, augment
        self._data, self._crop, self._seed = data, crop, seed

    def slots(self, unit: tuple[int, int]) -> list[Slot]:
        step, lane = unit
        return [Slot(step=step, planned=planned) for planned in self._plan.micro_batch_at(step, lane)]

    def fetch(self, slot: Slot) -> Fetched:
        return self._candidate(slot, slot.planned, ())

    def reject(self, fetched: Fetched, reason: str) -> Fetched:
        return self._next(fetched.slot, (*fetched.bad, _undecodable(fetched, reason)))

    def _next(self, slot: Slot, bad: tuple[BadSample, ...]) -> Fetched:
        if len(bad) > MAX_REPLACEMENTS:
            raise DataError(
                f"{bad[-1].shard}: {len(bad)} samples in a row cannot be used, the last one {bad[-1].key} "
                f"({bad[-1].reason}); run `dist-seg verify` on the data"
            )
        return self._candidate(slot, self._plan.replacement(slot.step, slot.planned.slot, len(bad)), bad)

    def _candidate(self, slot: Slot, planned: PlannedSample, bad: tuple[BadSample, ...]) -> Fetched:
        try:
            encoded = self._reader.read(planned.shard, planned.index)
        except BadSampleError as error:
            return self._next(slot, (*bad, error.bad))
        transform = draw(
            self._augment,
            input_scale=input_factor(self._data, encoded.height, encoded.width),
            height=encoded.height,
            width=encoded.width,
            crop=self._crop,
            rng=generator("augment", self._seed, self._plan.epoch_of(slot.step), encoded.key),
        )
        shard = self._reader.shard_name(planned.shard)
        return Fetched(slot=slot, shard=shard, encoded=encoded, transform=transform, bad=bad)


class EvalFetcher:
    """Leaves a bad sample out. May be pickled."""

    def __init__(self, reader: ShardReader, plan: EvalPlan, *, data: DataConfig) -> None:
        self._reader, self._plan, self._data = reader, plan, data

    def slots(self, unit: int) -> list[Slot]:
        return [Slot(step=unit, planned=planned) for planned in self._plan.batch(unit)]

    def fetch(self, slot: Slot) -> Fetched:
        shard = self._reader.shard_name(slot.planned.shard)
        try:
            encoded = self._reader.read(slot.planned.shard, slot.planned.index)
        except BadSampleError as error:
            return Fetched(slot=slot, shard=shard, encoded=None, transform=None, bad=(error.bad,))
        factor = input_factor(self._data, encoded.height, encoded.width)
        transform = eval_transform(input_scale=factor, height=encoded.height, width=encoded.width)
        return Fetched(slot=slot, shard=shard, encoded=encoded, transform=transform)

    def reject(self, fetched: Fetched, reason: str) -> Fetched:
        bad = (_undecodable(fetched, reason),)
        return Fetched(slot=fetched.slot, shard=fetched.shard, encoded=None, transform=None, bad=bad)


def drawn_samples(fetched: Sequence[Fetched]) -> list[DrawnSample]:
    """Those that there are, in order."""
    return [
        DrawnSample(encoded=f.encoded, transform=f.transform)
        for f in fetched
        if f.encoded is not None and f.transform is not None
    ]


def bad_samples(fetched: Sequence[Fetched]) -> tuple[BadSample, ...]:
    return tuple(bad for f in fetched for bad in f.bad)


def read_ahead(
    fetcher: Fetcher[Unit], units: Iterable[Unit], pool: ThreadPoolExecutor, *, ahead: int
) -> Iterator[list[Fetched]]:
    """The samples of every unit in order, read in the pool's threads up to `ahead` units before they are asked for."""
    waiting: deque[list[Future[Fetched]]] = deque()
    remaining = iter(units)
    while True:
        while len(waiting) <= ahead and (unit := next(remaining, None)) is not None:
            waiting.append([pool.submit(fetcher.fetch, slot) for slot in fetcher.slots(unit)])
        if not waiting:
            return
        yield [future.result() for future in waiting.popleft()]


def _undecodable(fetched: Fetched, reason: str) -> BadSample:
    assert fetched.encoded is not None
    return BadSample(key=fetched.encoded.key, shard=fetched.shard, reason=reason)
