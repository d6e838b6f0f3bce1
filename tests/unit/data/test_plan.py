import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_seg.data.plan import EvalPlan, TrainPlan, lanes_of_rank
from dist_seg.errors import ConfigError

shard_lists = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda counts: sum(counts) >= 8)


def plan_of(counts: list[int], *, lanes: int = 4, micro_batch: int = 2, window: int = 16, seed: int = 0) -> TrainPlan:
    return TrainPlan(
        counts, seed=seed, global_batch=lanes * micro_batch, micro_batch=micro_batch, shuffle_window=window
    )


def epoch_samples(plan: TrainPlan, epoch: int) -> list[tuple[int, int]]:
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    batches = [plan.micro_batch_at(step, lane) for step in steps for lane in range(plan.lanes)]
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
    history = [walked.micro_batch_at(earlier, 1) for earlier in range(step + 1)]
    assert sought.micro_batch_at(step, 1) == history[-1]


def test_lanes_found_together_are_those_found_alone() -> None:
    plan = plan_of([30, 20, 25], lanes=6)
    assert plan.micro_batches_at(3, range(6)) == [plan.micro_batch_at(3, lane) for lane in range(6)]


def test_plan_travels_to_worker_processes() -> None:
    plan = plan_of([30, 20])
    plan.micro_batch_at(0, 0)
    assert pickle.loads(pickle.dumps(plan)).micro_batch_at(9, 2) == plan.micro_batch_at(9, 2)


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


def test_ranks_hardly_share_shards() -> None:
    plan = TrainPlan([100] * 64, seed=0, global_batch=64, micro_batch=4, shuffle_window=100)
    shards_of = [set() for _ in range(4)]
    for rank, shards in enumerate(shards_of):
        for lane in lanes_of_rank(plan.lanes, rank, 4):
            shards |= {s.shard for step in range(plan.steps_per_epoch) for s in plan.micro_batch_at(step, lane)}
    shared = sum(len(shards_of[a] & shards_of[b]) for a in range(4) for b in range(a))
    assert shared <= 6
    assert max(map(len, shards_of)) <= 18


def test_replacement_comes_from_the_same_span_and_is_a_pure_function() -> None:
    plan = plan_of([40, 40])
    slot = plan.micro_batch_at(2, 3)[0].slot
    span = {(s.shard, s.index) for step in range(plan.steps_per_epoch) for s in plan.micro_batch_at(step, 3)}
    candidates = [plan.replacement(2, slot, attempt) for attempt in range(1, 20)]
    assert {(c.shard, c.index) for c in candidates} <= span
    assert len({(c.shard, c.index) for c in candidates}) > 5
    assert candidates == [plan_of([40, 40]).replacement(2, slot, attempt) for attempt in range(1, 20)]


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
