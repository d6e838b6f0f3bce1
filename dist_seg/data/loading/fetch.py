"""Reads planned samples and draws their transforms, and decides what replaces a bad sample.

Both loaders get their samples from here and report here what they cannot decode, so they end up with the same samples.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from dist_seg.config.schema import AugmentConfig, DataConfig
from dist_seg.data.codecs.encoded import BadSample, BadShard, EncodedSample
from dist_seg.data.loading.augment import SampleTransform, draw, eval_transform, input_factor
from dist_seg.data.plan.plan import EvalPlan, Plan, PlannedSample, micro_batch_at
from dist_seg.data.shards.bad_shards import BadShardError, unusable
from dist_seg.data.view.reader import BadSampleError, ShardReader
from dist_seg.errors import DataError
from dist_seg.runtime.rng import generator

MAX_REPLACEMENTS = 16
"""Bad candidates in a row for one slot after which the data counts as broken. Candidates in bad shards do not count:
bad shards have a limit of their own and may be a large part of the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A planned sample or its replacement, as it was read. In evaluation a bad sample has no replacement."""

    planned: PlannedSample
    shard: str
    encoded: EncodedSample | None
    transform: SampleTransform | None
    bad: tuple[BadSample, ...] = ()
    """Earlier candidates, which cannot be used."""
    attempt: int = 0
    """Number of the candidate; 0 is the planned sample."""
    bad_shards: Mapping[int, BadShard] = field(default_factory=dict)
    """Bad shards that were found during the search, by their positions."""
    replaced: bool = False
    """Whether the planned sample lies in a bad shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnSample:
    """A sample and its transform: what a loader needs to make its part of a batch."""

    encoded: EncodedSample
    transform: SampleTransform


Unit = TypeVar("Unit")
Unit_contra = TypeVar("Unit_contra", contravariant=True)


class Fetcher(Protocol[Unit_contra]):
    """Reads the samples of units. A unit is a micro-batch: (step, lane) in training, a batch's index in evaluation."""

    def planned(self, unit: Unit_contra) -> list[PlannedSample]:
        """The samples of a unit, in order."""
        ...

    def fetch(self, planned: PlannedSample) -> Fetched:
        """Read a sample and draw its transform.

        Raises DataError if reading fails, a bad shard is not allowed or replacements run out.
        """
        ...

    def reject(self, fetched: Fetched, reason: str) -> Fetched:
        """What takes the place of a sample that cannot be decoded."""
        ...


class TrainFetcher:
    """Replaces bad samples, and samples of bad shards, by the plan's next candidate. May be pickled.

    A shard that is found bad during a search is skipped for that slot only, until every rank knows about it: the
    content of a slot does not depend on other slots.
    """

    def __init__(
        self,
        reader: ShardReader,
        plan: Plan,
        augment: AugmentConfig,
        *,
        data: DataConfig,
        crop: tuple[int, int],
        seed: int,
    ) -> None:
        self._reader, self._plan, self._augment = reader, plan, augment
        self._data, self._crop, self._seed = data, crop, seed
        self._bad_shards = reader.bad_shards

    def planned(self, unit: tuple[int, int]) -> list[PlannedSample]:
        step, lane = unit
        return micro_batch_at(self._plan, step, lane)

    def fetch(self, planned: PlannedSample) -> Fetched:
        return self._search(planned, 0, (), {})

    def reject(self, fetched: Fetched, reason: str) -> Fetched:
        bad = (*fetched.bad, _undecodable(fetched, reason))
        return self._search(fetched.planned, fetched.attempt + 1, bad, fetched.bad_shards)

    def _search(
        self, planned: PlannedSample, attempt: int, bad: tuple[BadSample, ...], found: Mapping[int, BadShard]
    ) -> Fetched:
        """The first usable candidate from number `attempt` on. found: shards that were found bad before."""
        while True:
            passed_over = self._bad_shards | found.keys()
            if len(bad) > MAX_REPLACEMENTS:
                raise DataError(
                    f"{bad[-1].shard}: {len(bad)} samples in a row cannot be used, the last one {bad[-1].key} "
                    f"({bad[-1].reason}); run `dist-seg verify` on the data"
                )
            candidate = self._plan.next_outside(planned, attempt, passed_over)
            if candidate is None:
                reasons = {shard.name: shard.reason for shard in found.values()}
                raise unusable(reasons, self._reader.url, "training", "no other shard is left")
            attempt, sample = candidate
            try:
                encoded = self._reader.read(sample.shard, sample.index, holding=sample.holding)
                break
            except BadSampleError as error:
                bad = (*bad, error.bad)
            except BadShardError as error:
                if self._data.max_bad_shards == 0:
                    remedy = "or leave it out with data.max_bad_shards=1, which replaces its samples by others"
                    raise unusable({error.shard: error.reason}, self._reader.url, "training", remedy) from error
                found = {**found, sample.shard: BadShard(name=error.shard, reason=error.reason)}
            attempt += 1
        transform = draw(
            self._augment,
            input_scale=input_factor(self._data, encoded.height, encoded.width),
            height=encoded.height,
            width=encoded.width,
            crop=self._crop,
            rng=generator("augment", self._seed, planned.visit, encoded.key),
        )
        return Fetched(
            planned=planned,
            shard=self._reader.shard_name(sample.shard),
            encoded=encoded,
            transform=transform,
            bad=bad,
            attempt=attempt,
            bad_shards=found,
            replaced=planned.shard in passed_over,
        )


class EvalFetcher:
    """Leaves out bad samples and, if that is allowed, the samples of bad shards. May be pickled."""

    def __init__(self, reader: ShardReader, plan: EvalPlan, *, data: DataConfig, allow_bad_shards: bool) -> None:
        self._reader, self._plan, self._data, self._allow_bad_shards = reader, plan, data, allow_bad_shards

    def planned(self, unit: int) -> list[PlannedSample]:
        return self._plan.batch(unit)

    def fetch(self, planned: PlannedSample) -> Fetched:
        shard = self._reader.shard_name(planned.shard)
        try:
            encoded = self._reader.read(planned.shard, planned.index)
        except BadSampleError as error:
            return Fetched(planned=planned, shard=shard, encoded=None, transform=None, bad=(error.bad,))
        except BadShardError as error:
            if not self._allow_bad_shards:
                remedy = "or leave its samples out of the score with eval.allow_bad_samples=true"
                raise unusable({shard: error.reason}, self._reader.url, "evaluation", remedy) from error
            key = self._reader.key_or_place(planned.shard, planned.index)
            bad = BadSample(key=key, shard=shard, reason=f"its shard cannot be used: {error.reason}")
            return Fetched(planned=planned, shard=shard, encoded=None, transform=None, bad=(bad,))
        factor = input_factor(self._data, encoded.height, encoded.width)
        transform = eval_transform(input_scale=factor, height=encoded.height, width=encoded.width)
        return Fetched(planned=planned, shard=shard, encoded=encoded, transform=transform)

    def reject(self, fetched: Fetched, reason: str) -> Fetched:
        bad = (_undecodable(fetched, reason),)
        return Fetched(planned=fetched.planned, shard=fetched.shard, encoded=None, transform=None, bad=bad)


def drawn_samples(fetched: Sequence[Fetched]) -> list[DrawnSample]:
    """The samples that were found, in order."""
    return [
        DrawnSample(encoded=f.encoded, transform=f.transform)
        for f in fetched
        if f.encoded is not None and f.transform is not None
    ]


def bad_samples(fetched: Sequence[Fetched]) -> tuple[BadSample, ...]:
    return tuple(bad for f in fetched for bad in f.bad)


def bad_shards(fetched: Sequence[Fetched]) -> tuple[BadShard, ...]:
    """Every bad shard once."""
    return tuple({shard.name: shard for f in fetched for shard in f.bad_shards.values()}.values())


def read_ahead(
    fetcher: Fetcher[Unit], units: Iterable[Unit], pool: ThreadPoolExecutor, *, ahead: int
) -> Iterator[list[Fetched]]:
    """The samples of every unit, in order. The pool's threads read up to `ahead` units in advance."""
    waiting: deque[list[Future[Fetched]]] = deque()
    remaining = iter(units)
    while True:
        while len(waiting) <= ahead and (unit := next(remaining, None)) is not None:
            waiting.append([pool.submit(fetcher.fetch, planned) for planned in fetcher.planned(unit)])
        if not waiting:
            return
        yield [future.result() for future in waiting.popleft()]


def _undecodable(fetched: Fetched, reason: str) -> BadSample:
    assert fetched.encoded is not None
    return BadSample(key=fetched.encoded.key, shard=fetched.shard, reason=reason)
