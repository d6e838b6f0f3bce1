import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_seg.data.plan.plan import EvalPlan, PlannedSample, TrainPlan, lanes_of_rank, micro_batch_at
from dist_seg.errors import ConfigError

shard_lists = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda counts: sum(counts) >= 8)


def plan_of(counts: list[int], *, lanes: int = 4, micro_batch: int = 2, window: int = 16, seed: int = 0) -> TrainPlan:
    return TrainPlan(
        counts, seed=seed, global_batch=lanes * micro_batch, micro_batch=micro_batch, shuffle_window=window
    )


def epoch_samples(plan: TrainPlan, epoch: int) -> list[tuple[int, int]]:
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    batches = [micro_batch_at(plan, step, lane) for step in steps for lane in range(plan.lanes)]
    return [(sample.shard, sample.index) for batch in batches for sample in batch]


@settings(max_examples=60, deadline=None)
@given(counts=shard_lists, window=st.integers(1, 200), epoch=st.integers(0, 3), seed=st.integers(0, 3))
def test_an_epoch_has_every_sample_at_most_once_and_misses_less_than_a_batch(
    counts: list[int], window: int, epoch: int, seed: int
) -> None:
    seen = epoch_samples(plan_of(counts, window=window, seed=seed), epoch)
    everything = {(shard, index) for shard, count in enumerate(counts) for index in range(count)}
    assert len(seen) == len(set(seen))
    assert set(seen) <= everything
    assert len(everything) - len(seen) < 8


@settings(max_examples=30, deadline=None)
@given(counts=shard_lists, data=st.data())
def test_a_step_is_found_without_the_steps_before_it(counts: list[int], data: st.DataObject) -> None:
    walked, sought = plan_of(counts), plan_of(counts)
    step = data.draw(st.integers(0, 3 * walked.steps_per_epoch))
    history = [micro_batch_at(walked, earlier, 1) for earlier in range(step + 1)]
    assert micro_batch_at(sought, step, 1) == history[-1]


@given(counts=shard_lists, window=st.integers(1, 100), lanes=st.integers(1, 4), data=st.data())
def test_lanes_found_together_are_those_found_alone(
    counts: list[int], window: int, lanes: int, data: st.DataObject
) -> None:
    plan = plan_of(counts, lanes=lanes, window=window)
    step = data.draw(st.integers(0, 2 * plan.steps_per_epoch))
    assert plan.micro_batches_at(step, range(lanes)) == [micro_batch_at(plan, step, lane) for lane in range(lanes)]


# Blocks of 4^k and 4^k + 1 samples in one plan.
@pytest.mark.parametrize(("num_samples", "window"), [(33, 30), (129, 70), (513, 300), (1027, 300), (8193, 4097)])
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_blocks_on_both_sides_of_a_power_of_four_are_each_permuted_once(
    num_samples: int, window: int, micro_batch: int
) -> None:
    lanes = num_samples // micro_batch // 2
    plan = plan_of([num_samples], lanes=lanes, micro_batch=micro_batch, window=window)
    together = [plan.micro_batches_at(step, range(lanes)) for step in range(plan.steps_per_epoch)]
    found = [sample.index for micro_batches in together for samples in micro_batches for sample in samples]
    assert len(found) == len(set(found)) == plan.steps_per_epoch * plan.global_batch
    some = range(0, lanes, max(1, lanes // 40))
    assert [together[1][lane] for lane in some] == [micro_batch_at(plan, 1, lane) for lane in some]


@pytest.mark.parametrize(("num_samples", "window"), [(33, 30), (513, 300)])
def test_a_replacement_is_one_of_its_span_whatever_the_blocks_sizes(num_samples: int, window: int) -> None:
    plan = plan_of([num_samples], lanes=2, micro_batch=4, window=window)
    for lane in range(2):
        span = {s.index for step in range(plan.steps_per_epoch) for s in micro_batch_at(plan, step, lane)}
        slot = micro_batch_at(plan, 1, lane)[2]
        drawn = [replacement(plan, 1, slot.slot, attempt).index for attempt in range(1, len(span))]
        assert {*drawn, slot.index} == span


def test_plan_travels_to_worker_processes() -> None:
    plan = plan_of([30, 20])
    micro_batch_at(plan, 0, 0)
    assert micro_batch_at(pickle.loads(pickle.dumps(plan)), 9, 2) == micro_batch_at(plan, 9, 2)


def test_epochs_and_seeds_differ() -> None:
    plan = plan_of([50, 50])
    assert epoch_samples(plan, 0) != epoch_samples(plan, 1)
    assert epoch_samples(plan, 0) != epoch_samples(plan_of([50, 50], seed=1), 0)


@given(lanes=st.integers(1, 40), data=st.data())
def test_ranks_own_every_lane_once_as_evenly_as_they_go(lanes: int, data: st.DataObject) -> None:
    world_size = data.draw(st.integers(1, lanes))
    owned = [lanes_of_rank(lanes, rank, world_size) for rank in range(world_size)]
    assert [lane for lane_range in owned for lane in lane_range] == list(range(lanes))
    assert max(map(len, owned)) - min(map(len, owned)) <= 1


def shards_of(plan: TrainPlan, lanes: range) -> set[int]:
    """The shards that an epoch reads for some lanes."""
    return {s.shard for step in range(plan.steps_per_epoch) for lane in lanes for s in micro_batch_at(plan, step, lane)}


def test_ranks_hardly_share_shards() -> None:
    plan = TrainPlan([100] * 64, seed=0, global_batch=64, micro_batch=4, shuffle_window=100)
    of_rank = [shards_of(plan, lanes_of_rank(plan.lanes, rank, 4)) for rank in range(4)]
    shared = sum(len(of_rank[a] & of_rank[b]) for a in range(4) for b in range(a))
    assert shared <= 6
    assert max(map(len, of_rank)) <= 18


@settings(max_examples=15, deadline=None)
@given(shards=st.integers(16, 48), per_shard=st.integers(20, 60), seed=st.integers(0, 5), data=st.data())
def test_neighbouring_lanes_share_shards_and_ranks_only_those_at_their_borders(
    shards: int, per_shard: int, seed: int, data: st.DataObject
) -> None:
    window = data.draw(st.integers(1, 2 * per_shard))
    plan = TrainPlan([per_shard] * shards, seed=seed, global_batch=64, micro_batch=1, shuffle_window=window)
    # A window of w samples reaches over at most w / per_shard + 2 shards, and two ranks have one border.
    at_border = window // per_shard + 2
    halves = [shards_of(plan, lanes_of_rank(plan.lanes, rank, 2)) for rank in range(2)]
    assert len(halves[0] & halves[1]) <= at_border
    assert max(map(len, halves)) <= shards // 2 + at_border + 1  # the 32 lanes of a rank read the same few


def test_data_that_fits_into_the_window_is_permuted_as_a_whole() -> None:
    plan = plan_of([100] * 10, lanes=10, micro_batch=5, window=1000)
    for lane in range(10):  # 100 samples each, which 10 shards in equal parts would give by 10
        shards = [s.shard for step in range(plan.steps_per_epoch) for s in micro_batch_at(plan, step, lane)]
        assert len(set(shards)) == 10
        assert max(map(shards.count, shards)) <= 25


@settings(max_examples=40, deadline=None)
@given(counts=shard_lists, window=st.integers(1, 60), lanes=st.integers(1, 4), data=st.data())
def test_all_ranks_together_make_the_same_micro_batches_at_every_world_size(
    counts: list[int], window: int, lanes: int, data: st.DataObject
) -> None:
    plan = plan_of(counts, lanes=lanes, window=window)
    step = data.draw(st.integers(0, 2 * plan.steps_per_epoch))
    alone = dict(enumerate(plan.micro_batches_at(step, range(lanes))))
    for world_size in range(1, lanes + 1):
        together = {}
        for rank in range(world_size):
            of_rank = plan_of(counts, lanes=lanes, window=window)  # each rank has a plan of its own
            owned = lanes_of_rank(lanes, rank, world_size)
            together |= dict(zip(owned, of_rank.micro_batches_at(step, owned), strict=True))
        assert together == alone


def replacement(plan: TrainPlan, step: int, slot: int, attempt: int) -> PlannedSample:
    """The candidate number `attempt` (from 1) for a slot of a step's epoch."""
    planned = PlannedSample(shard=0, index=0, slot=slot, visit=step // plan.steps_per_epoch)
    found = plan.next_outside(planned, attempt, set())
    assert found is not None and found[0] == attempt
    return found[1]


class TestReplacement:
    def test_the_others_of_the_span_come_first_and_once_each(self) -> None:
        plan = plan_of([40, 40])
        planned = micro_batch_at(plan, 2, 3)[0]
        span = {(s.shard, s.index) for step in range(plan.steps_per_epoch) for s in micro_batch_at(plan, step, 3)}
        drawn = [replacement(plan, 2, planned.slot, attempt) for attempt in range(1, len(span))]
        assert len({(c.shard, c.index) for c in drawn}) == len(span) - 1
        assert {(c.shard, c.index) for c in drawn} == span - {(planned.shard, planned.index)}

    @settings(max_examples=40, deadline=None)
    @given(counts=shard_lists, data=st.data())
    def test_then_those_of_the_whole_epoch_and_never_the_bad_one(self, counts: list[int], data: st.DataObject) -> None:
        plan = plan_of(counts)
        planned = micro_batch_at(plan, 0, data.draw(st.integers(0, 3)))[data.draw(st.integers(0, 1))]
        drawn = [replacement(plan, 0, planned.slot, attempt) for attempt in range(1, plan.num_samples)]
        everything = {(shard, index) for shard, count in enumerate(counts) for index in range(count)}
        assert {(c.shard, c.index) for c in drawn} == everything - {(planned.shard, planned.index)}

    def test_a_span_of_one_gives_way_to_the_epoch(self) -> None:
        plan = plan_of([5], lanes=5, micro_batch=1)
        planned = micro_batch_at(plan, 0, 2)[0]
        drawn = [replacement(plan, 0, planned.slot, attempt).index for attempt in range(1, 5)]
        assert sorted([*drawn, planned.index]) == [0, 1, 2, 3, 4]

    def test_beyond_all_samples_they_come_again(self) -> None:
        plan = plan_of([8])
        first, again = (replacement(plan, 0, 3, attempt) for attempt in (1, 8))
        assert first == again

    def test_a_split_of_one_sample_has_no_other(self) -> None:
        assert replacement(plan_of([1], lanes=1, micro_batch=1), 0, 0, 1).index == 0

    @settings(max_examples=40, deadline=None)
    @given(counts=shard_lists, data=st.data())
    def test_passing_shards_over_gives_what_rejecting_their_samples_one_by_one_gives(
        self, counts: list[int], data: st.DataObject
    ) -> None:
        plan = plan_of(counts)
        planned = micro_batch_at(plan, 0, data.draw(st.integers(0, 3)))[data.draw(st.integers(0, 1))]
        bad = data.draw(st.sets(st.integers(0, len(counts) - 1)))
        start = data.draw(st.integers(0, 3))
        candidates = [planned, *(replacement(plan, 0, planned.slot, n) for n in range(1, plan.num_samples + 3))]
        outside = [(n, c) for n, c in enumerate(candidates) if n >= start and c.shard not in bad]
        found = plan.next_outside(planned, start, bad)
        if any(count for shard, count in enumerate(counts) if shard not in bad and shard != planned.shard):
            assert found == outside[0]
        elif all(shard in bad for shard, count in enumerate(counts) if count):
            assert found is None

    def test_a_span_that_lies_in_a_bad_shard_as_a_whole_gives_way_to_the_epoch(self) -> None:
        plan = TrainPlan([5000, 5000], seed=0, global_batch=8, micro_batch=4, shuffle_window=1)
        planned = micro_batch_at(plan, 0, 0)[0]
        number, candidate = plan.next_outside(planned, 0, {planned.shard}) or (0, planned)
        assert number == 5000  # the other 4999 of the span come before
        assert candidate.shard != planned.shard

    def test_it_is_a_pure_function_of_seed_epoch_slot_and_attempt(self) -> None:
        plan = plan_of([40, 40])
        drawn = [replacement(plan, 2, 5, attempt) for attempt in range(1, 20)]
        assert drawn == [replacement(plan_of([40, 40]), 2, 5, attempt) for attempt in range(1, 20)]
        assert drawn != [replacement(plan_of([40, 40], seed=1), 2, 5, attempt) for attempt in range(1, 20)]
        assert drawn != [replacement(plan, 12, 5, attempt) for attempt in range(1, 20)]


def test_global_batch_larger_than_the_split_is_the_users_error() -> None:
    with pytest.raises(ConfigError, match="larger than the training split of 7"):
        plan_of([7])


def test_global_batch_that_does_not_divide_is_the_users_error() -> None:
    with pytest.raises(ConfigError, match="not a multiple"):
        TrainPlan([50], seed=0, global_batch=7, micro_batch=2, shuffle_window=10)


@given(counts=st.lists(st.integers(0, 9), max_size=8), batch=st.integers(1, 5), world_size=st.integers(1, 20))
def test_evaluation_has_every_sample_exactly_once_at_every_rank_count(
    counts: list[int], batch: int, world_size: int
) -> None:
    plan = EvalPlan(counts, batch=batch)
    numbers = [number for rank in range(world_size) for number in plan.of_rank(rank, world_size)]
    seen = [(s.shard, s.index) for number in numbers for s in plan.batch(number)]
    assert seen == [(shard, index) for shard, count in enumerate(counts) for index in range(count)]
