"""Mixed plans: exact shares, epochs of every part, and nothing that depends on history or on the number of ranks."""

import math
import pickle
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_seg.data.plan.mixed_plan import BLOCK, MixedPart, MixedPlan, block_shares
from dist_seg.data.plan.plan import PlannedSample, lanes_of_rank, micro_batch_at
from dist_seg.errors import ConfigError

# Three parts that share no shard, the second with fewer samples than there are lanes.
COUNTS = ([30, 0, 0, 25], [0, 2, 0, 0], [0, 0, 41, 0])
WEIGHTS = (0.5, 0.125, 0.375)
part_lists = st.lists(
    st.tuples(st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), st.floats(0.01, 9.0)),
    min_size=1,
    max_size=4,
)


def plan_of(
    counts: tuple[list[int], ...] = COUNTS,
    weights: tuple[float, ...] = WEIGHTS,
    *,
    lanes: int = 4,
    micro_batch: int = 2,
    window: int = 16,
    seed: int = 0,
) -> MixedPlan:
    parts = [
        MixedPart(name=f"part{i}", shard_samples=samples, weight=weight)
        for i, (samples, weight) in enumerate(zip(counts, weights, strict=True))
    ]
    total = [sum(samples) for samples in zip(*counts, strict=True)]
    return MixedPlan(
        parts, total, seed=seed, global_batch=lanes * micro_batch, micro_batch=micro_batch, shuffle_window=window
    )


def drawn_plan(drawn: list[tuple[list[int], float]], **options: int) -> MixedPlan:
    counts, weights = tuple(samples for samples, _ in drawn), tuple(weight for _, weight in drawn)
    counts = (*counts[:-1], [n + 8 for n in counts[-1]])  # a global batch at least
    return plan_of(counts, weights, **options)


def lane_samples(plan: MixedPlan, lane: int, steps: range) -> list[PlannedSample]:
    return [sample for step in steps for sample in micro_batch_at(plan, step, lane)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30))
def test_shares_are_those_of_the_largest_remainders_and_one_at_least(weights: list[float]) -> None:
    shares, exact = block_shares(weights), [weight / sum(weights) * BLOCK for weight in weights]
    assert sum(shares) == BLOCK and min(shares) >= 1
    if min(exact) >= 1:
        assert all(abs(share - part) < 1 + 1e-6 for share, part in zip(shares, exact, strict=True))
        raised = [part % 1 for share, part in zip(shares, exact, strict=True) if share > part + 1e-6]
        lowered = [part % 1 for share, part in zip(shares, exact, strict=True) if share < part - 1e-6]
        assert min(raised, default=1) >= max(lowered, default=0) - 1e-6


def test_shares_that_have_no_slot_of_their_own_are_given_one() -> None:
    assert block_shares([1.0, 0.0, 1e-300]) == [BLOCK - 2, 1, 1]
    assert block_shares([1.0, 1.0, 1.0]) == [1680] * 3


# Large batches, so that a whole block is ten steps.
MANY = ([3000, 0, 0, 2500], [0, 5, 0, 0], [0, 0, 4100, 0])
LANES, MICRO_BATCH, STEPS = 8, BLOCK // 10, 10


@pytest.mark.parametrize("lane", [0, 3])
def test_in_every_block_of_a_lane_each_part_has_exactly_its_share(lane: int) -> None:
    plan = plan_of(MANY, lanes=LANES, micro_batch=MICRO_BATCH)
    assert plan.shares == {"part0": 0.5, "part1": 0.125, "part2": 0.375}
    for block in range(2):
        samples = lane_samples(plan, lane, range(block * STEPS, (block + 1) * STEPS))
        assert Counter(s.stream for s in samples) == {0: BLOCK // 2, 1: BLOCK // 8, 2: BLOCK * 3 // 8}
        begin = Counter(sample.stream for sample in samples[:1000])
        assert begin[0] == pytest.approx(500, abs=80)  # mixed, not one part after the other


@pytest.mark.parametrize("lanes", [8, 7])
def test_in_every_epoch_of_its_part_each_sample_comes_exactly_once(lanes: int) -> None:
    plan = plan_of(MANY, lanes=lanes, micro_batch=MICRO_BATCH, window=1000)
    epochs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    last: dict[tuple[int, int], int] = {}
    for step in range(STEPS):  # a whole block of every lane
        for lane, samples in enumerate(plan.micro_batches_at(step, range(lanes))):
            for sample in samples:
                assert last.get((lane, sample.stream), 0) <= sample.visit  # one epoch after the other
                last[lane, sample.stream] = sample.visit
                epochs[sample.visit].append((sample.shard, sample.index))
    for part, (samples, share) in enumerate(zip(MANY, WEIGHTS, strict=True)):
        everything = [(shard, i) for shard, count in enumerate(samples) for i in range(count)]
        whole, rest = divmod(int(BLOCK * lanes * share), len(everything))
        found = [sorted(epochs[visit]) for visit in sorted(epochs) if visit % 3 == part]
        assert found[:whole] == [everything] * whole
        assert [len(epoch) for epoch in found[whole:]] == [rest] * bool(rest)
        assert all(len(epoch) == len(set(epoch)) for epoch in found)


@settings(max_examples=30, deadline=None)
@given(drawn=part_lists, lanes=st.integers(1, 8))
def test_no_sample_gets_ahead_of_another_of_its_part_by_more_than_the_lanes_are_apart(
    drawn: list[tuple[list[int], float]], lanes: int
) -> None:
    plan = drawn_plan(drawn, lanes=lanes, micro_batch=1)
    counts: Counter[tuple[int, int, int]] = Counter()
    places = {  # those of the last part that `drawn_plan` adds are in it, too
        part: [(shard, i) for shard, n in enumerate(samples) for i in range(n + 8 * (part == len(drawn) - 1))]
        for part, (samples, _) in enumerate(drawn)
    }
    for step in range(150):
        found = [sample for lane in plan.micro_batches_at(step, range(lanes)) for sample in lane]
        counts.update((sample.stream, sample.shard, sample.index) for sample in found)
        for part, of_part in places.items():
            times = [counts[part, *place] for place in of_part]
            apart = 2 * (1 + len(drawn) * plan.shares[f"part{part}"])  # draws of one lane that another has not had yet
            assert max(times) - min(times) <= 1 + math.ceil(apart * lanes / len(of_part))


def test_a_class_of_a_few_samples_for_each_of_many_lanes_comes_evenly() -> None:
    plan = plan_of(([5000, 0], [0, 127]), (1.0, 1.0), lanes=64, window=8192)
    rare = [s.index for step in range(40) for lane in plan.micro_batches_at(step, range(64)) for s in lane if s.stream]
    assert all(max(Counter(rare[: 127 * n]).values()) <= n + 1 for n in range(1, 16))
    assert all(min(Counter(rare[: 127 * n]).get(i, 0) for i in range(127)) >= n - 1 for n in range(1, 16))


@settings(max_examples=30, deadline=None)
@given(drawn=part_lists, lane=st.integers(0, 3))
def test_at_any_place_of_a_lane_a_part_has_come_about_as_often_as_its_share(
    drawn: list[tuple[list[int], float]], lane: int
) -> None:
    plan = drawn_plan(drawn, micro_batch=1)
    streams = np.array([sample.stream for sample in lane_samples(plan, lane, range(500))])
    for part in range(len(drawn)):
        share = plan.shares[f"part{part}"]
        ahead = np.cumsum(streams == part) - share * np.arange(1, 501)
        assert np.abs(ahead).max() < 1 + len(drawn) * share


@settings(max_examples=30, deadline=None)
@given(drawn=part_lists, data=st.data())
def test_a_step_is_found_without_history_and_alike_by_all_numbers_of_ranks(
    drawn: list[tuple[list[int], float]], data: st.DataObject
) -> None:
    walked, sought = drawn_plan(drawn), drawn_plan(drawn)
    step = data.draw(st.integers(0, 300))
    history = [walked.micro_batches_at(earlier, range(4)) for earlier in range(max(0, step - 30), step + 1)]
    assert sought.micro_batches_at(step, range(4)) == history[-1]
    for world_size in (1, 2, 3):
        together = [
            micro_batch_at(drawn_plan(drawn), step, lane)
            for rank in range(world_size)
            for lane in lanes_of_rank(4, rank, world_size)
        ]
        assert together == history[-1]
    assert pickle.loads(pickle.dumps(walked)).micro_batches_at(step, range(4)) == history[-1]


def test_a_plan_of_many_parts_and_shards_is_sent_to_loaders_in_few_bytes() -> None:
    rare = [[0] * i + [3] + [0] * (9_999 - i) for i in range(20)]  # each in a single shard
    plan = plan_of(([200] * 10_000, *rare), (1.0,) * 21)
    for step in range(10):
        plan.micro_batches_at(step, range(4))
    assert (
        len(pickle.dumps(plan)) < 10_000 * (8 + 1 + 2) + 20_000
    )  # where shards end, what they hold, and their numbers


def test_seeds_differ() -> None:
    first, second = (lane_samples(plan_of(seed=seed), 0, range(20)) for seed in (0, 1))
    assert first != second


def candidates_of(plan: MixedPlan, planned: PlannedSample, count: int) -> list[PlannedSample]:
    found = [plan.next_outside(planned, number, set()) for number in range(count)]
    assert [entry[0] for entry in found if entry] == list(range(count))
    return [entry[1] for entry in found if entry]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_bad_sample_gives_way_to_the_others_of_its_part_and_then_to_all(part: int) -> None:
    plan = plan_of()
    planned = next(s for s in lane_samples(plan, 1, range(50)) if s.stream == part and s.visit >= 3)
    own, everything = sum(COUNTS[part]), sum(map(sum, COUNTS))
    found = candidates_of(plan, planned, own + everything)
    places = [(sample.shard, sample.index) for sample in found]
    assert found[0] == planned
    assert set(places[:own]) == {(shard, i) for shard, n in enumerate(COUNTS[part]) for i in range(n)}
    total = [sum(samples) for samples in zip(*COUNTS, strict=True)]
    assert sorted(places[own:]) == [(shard, i) for shard, n in enumerate(total) for i in range(n)]
    assert {(sample.slot, sample.stream) for sample in found} == {(planned.slot, part)}


@settings(max_examples=30, deadline=None)
@given(drawn=part_lists, data=st.data())
def test_passing_shards_over_gives_what_rejecting_their_samples_one_by_one_gives(
    drawn: list[tuple[list[int], float]], data: st.DataObject
) -> None:
    plan = drawn_plan(drawn)
    planned = data.draw(st.sampled_from(lane_samples(plan, 0, range(20))))
    bad, start = data.draw(st.sets(st.integers(0, 3))), data.draw(st.integers(0, 3))
    candidates = candidates_of(plan, planned, plan.num_samples + 3)
    outside = [(n, c) for n, c in enumerate(candidates) if n >= start and c.shard not in bad]
    found = plan.next_outside(planned, start, bad)
    if len(bad) == 4:
        assert found is None
    else:
        assert found == outside[0]


def test_a_batch_larger_than_all_parts_together_is_the_users_error() -> None:
    with pytest.raises(ConfigError, match="larger than the training split of 98 samples"):
        plan_of(lanes=50)
