"""Folds are disjoint, complete and even; fractions are exact and lie within each other."""

import itertools
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_seg.config.load import load_config
from dist_seg.config.schema import DataConfig
from dist_seg.data.loading.torch_loader import SegmentationDataset
from dist_seg.data.shards.manifest import ShardInfo
from dist_seg.data.view import open as run_data
from dist_seg.data.view.open import load_view, viewed
from dist_seg.data.view.reader import ShardReader
from dist_seg.data.view.selection import Folds, Selection, fold_numbers, group_hashes, shares
from dist_seg.errors import ConfigError, DataError
from dist_seg.runtime.rng import seed_of
from tests.loader_cases import AUGMENTATIONS, config, evaluate, opened, train

shard_lists = st.lists(st.integers(0, 40), min_size=1, max_size=12)
fractions = st.integers(1, 999).map(lambda number: number / 1000)


def names_of(counts: list[int]) -> list[str]:
    return [f"train-{i:06d}.tar" for i in range(len(counts))]


def chosen(selection: Selection, counts: list[int]) -> set[tuple[int, int]]:
    """The chosen samples, with the counts checked against the places."""
    found = [(shard, int(index)) for shard in range(len(counts)) for index in selection.indices(shard)]
    assert Counter(shard for shard, _ in found) == Counter(dict(enumerate(selection.counts)))
    assert found == sorted(set(found))
    assert all(0 <= index < counts[shard] for shard, index in found)
    return set(found)


def everything(counts: list[int]) -> set[tuple[int, int]]:
    return {(shard, index) for shard, count in enumerate(counts) for index in range(count)}


@settings(max_examples=40, deadline=None)
@given(counts=shard_lists, folds=st.integers(2, 7))
def test_folds_are_disjoint_complete_and_equal_to_one_sample(counts: list[int], folds: int) -> None:
    parts = []
    for fold in range(folds):
        held_out, trained = (
            chosen(Selection(names_of(counts), counts, folds=Folds(count=folds, fold=fold, held_out=side)), counts)
            for side in (True, False)
        )
        assert held_out.isdisjoint(trained) and held_out | trained == everything(counts)
        parts.append(held_out)
    assert sum(map(len, parts)) == sum(counts) and set().union(*parts) == everything(counts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_fold_is_made_up_of_all_shards_alike_and_not_of_their_order() -> None:
    counts = [50] * 20
    selection = Selection(names_of(counts), counts, folds=Folds(count=5, fold=2, held_out=True))
    assert selection.counts == (10,) * 20
    assert len({tuple(selection.indices(shard)) for shard in range(20)}) == 20


@settings(max_examples=40, deadline=None)
@given(counts=shard_lists.filter(any), fraction=fractions)
def test_a_fraction_is_exact_and_of_every_shard_alike(counts: list[int], fraction: float) -> None:
    taken = shares(names_of(counts), counts, fraction)
    assert sum(taken) == max(1, round(fraction * 1000) * sum(counts) // 1000)
    for count, part in zip(counts, taken, strict=True):
        assert abs(part - fraction * count) <= 2


@settings(max_examples=40, deadline=None)
@given(counts=shard_lists.filter(any), data=st.data(), folds=st.sampled_from([None, 2, 5]))
def test_a_smaller_fraction_lies_within_a_larger_one(counts: list[int], data: st.DataObject, folds: int | None) -> None:
    few, many = sorted(data.draw(st.tuples(fractions, fractions)))
    part = None if folds is None else Folds(count=folds, fold=1, held_out=False)
    if part is not None and sum(Selection(names_of(counts), counts, folds=part).counts) == 0:
        return
    small, large = (
        chosen(Selection(names_of(counts), counts, folds=part, fraction=fraction), counts) for fraction in (few, many)
    )
    assert small <= large
    if part is not None:
        assert large <= chosen(Selection(names_of(counts), counts, folds=part), counts)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=5, max_size=40), folds=st.integers(2, 5))
def test_groups_stay_together_and_folds_are_even_to_the_largest_group(sizes: list[int], folds: int) -> None:
    groups = [f"group{i}" for i, size in enumerate(sizes) for _ in range(size)]
    numbers = fold_numbers(group_hashes(groups), folds)
    assert all(len({*numbers[[name == group for name in groups]].tolist()}) == 1 for group in groups)
    loads = np.bincount(numbers, minlength=folds)
    assert loads.min() > 0 and loads.max() - loads.min() <= max(sizes)
    shuffled = np.random.default_rng(0).permutation(len(groups))
    assert np.array_equal(fold_numbers(group_hashes([groups[i] for i in shuffled]), folds), numbers[shuffled])
    assert numbers.tolist() == folds_by_name(groups, folds)


def folds_by_name(groups: list[str], folds: int) -> list[int]:
    """As they are defined: the largest group first, to the emptiest fold; of one size in the order of their hashes."""
    sizes, loads, part = Counter(groups), [0] * folds, {}
    for group in sorted(sizes, key=lambda name: (-sizes[name], seed_of("fold", name))):
        part[group] = loads.index(min(loads))
        loads[part[group]] += sizes[group]
    return [part[group] for group in groups]


@settings(max_examples=40, deadline=None)
@given(counts=shard_lists.filter(lambda counts: sum(counts) > 3), fold=st.integers(0, 2), seed=st.integers(0, 9))
def test_folds_by_group_are_the_samples_of_their_numbers(counts: list[int], fold: int, seed: int) -> None:
    flat = np.random.default_rng(seed).integers(0, 3, sum(counts)).astype(np.uint8)
    numbers = tuple(np.split(flat, np.cumsum(counts)[:-1]))
    found = chosen(
        Selection(names_of(counts), counts, folds=Folds(count=3, fold=fold, held_out=True, numbers=numbers)), counts
    )
    assert found == {(shard, index) for shard, index in everything(counts) if numbers[shard][index] == fold}


# Through manifest, reader and loader


def keys_of(shards: Path, split: str = "train", **data: object) -> list[str]:
    found = load_view(DataConfig(shards=str(shards), **data))  # type: ignore[arg-type]
    reader = ShardReader(found, split)
    places = [(shard, index) for shard, count in enumerate(reader.shard_samples) for index in range(count)]
    keys = [reader.info(*place).key for place in places]
    assert keys == [reader.read(*place).key for place in places] and len(keys) == found.split(split).num_samples
    return keys


def test_five_folds_train_on_what_the_others_are_scored_on(synthetic_shards: Path) -> None:
    whole = sorted(keys_of(synthetic_shards))
    scored = [keys_of(synthetic_shards, f"fold-{fold}-of-5", folds=5, fold=fold) for fold in range(5)]
    assert sorted(itertools.chain(*scored)) == whole
    assert sorted(map(len, scored)) == [4, 5, 5, 5, 5]
    for fold in range(5):
        assert sorted([*keys_of(synthetic_shards, folds=5, fold=fold), *scored[fold]]) == whole
    assert len(keys_of(synthetic_shards, "val", folds=5, fold=0)) == 8  # to be tested on, as before


def test_keys_with_one_match_are_in_one_fold(synthetic_shards: Path) -> None:
    scored = [keys_of(synthetic_shards, f"fold-{fold}-of-3", folds=3, fold=fold, fold_by=r"(\d)$") for fold in range(3)]
    assert sorted(itertools.chain(*scored)) == sorted(keys_of(synthetic_shards))
    digits = [{key[-1] for key in part} for part in scored]
    assert sum(map(len, digits)) == len(set().union(*digits)) == 10


def test_dividing_by_group_holds_no_keys(synthetic_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_view(DataConfig(shards=str(synthetic_shards)))
    split = run.split("train")
    shards = tuple(replace(split.shards[0], name=f"train-{i:06d}.tar", samples=100) for i in range(500))
    many = replace(run, splits={"train": replace(split, shards=shards)})

    class Index:
        def __init__(self, storage: object, shard: ShardInfo) -> None:
            self.name = shard.name

        def keys(self) -> list[str]:
            return [f"{self.name}/{'a-long-folder' * 20}/{i % 10}/{i}" for i in range(100)]

    monkeypatch.setattr(run_data, "read_sidecar", Index)
    tracemalloc.start()
    found = viewed(many, DataConfig(folds=5, fold=0, fold_by=r"^(.*)/\d+$"))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.split("fold-0-of-5").num_samples == 10_000
    assert most < 50_000 * 100  # a key takes 350


def test_a_fraction_of_the_training_split_leaves_the_others_alone(synthetic_shards: Path) -> None:
    few, more = (set(keys_of(synthetic_shards, fraction=fraction)) for fraction in (0.25, 0.5))
    assert (len(few), len(more)) == (6, 12) and few < more
    assert len(keys_of(synthetic_shards, "val", fraction=0.25)) == 8
    left = keys_of(synthetic_shards, folds=2, fold=0, fraction=0.25)
    assert len(left) == 3 and set(left) < set(keys_of(synthetic_shards, folds=2, fold=0))


def test_batches_are_made_of_the_chosen_samples_alone(synthetic_shards: Path) -> None:
    data, cfg = opened(synthetic_shards, folds=3, fold=1), config(AUGMENTATIONS["crop"])
    trained = [key for batch in train(data, cfg, [(step, 0) for step in range(4)]) for key in batch.keys]
    assert sorted(trained) == sorted(keys_of(synthetic_shards, folds=3, fold=1))
    whole = evaluate(data, cfg, split="fold-1-of-3")
    scored = [key for batches in whole for batch in batches for key in batch.keys]
    assert sorted(scored) == sorted(keys_of(synthetic_shards, "fold-1-of-3", folds=3, fold=1))


def test_a_dataset_in_a_notebook_has_the_chosen_samples_too(synthetic_shards: Path) -> None:
    dataset = SegmentationDataset(str(synthetic_shards), data=DataConfig(fraction=0.25))
    assert [dataset[i]["key"] for i in range(len(dataset))] == keys_of(synthetic_shards, fraction=0.25)


def test_which_samples_are_chosen_is_part_of_the_datas_identity(synthetic_shards: Path) -> None:
    settings = [{}, {"fraction": 0.5}, {"folds": 2, "fold": 0}, {"folds": 2, "fold": 1}, {"folds": 3, "fold": 1}]
    by_group = {"folds": 3, "fold": 1, "fold_by": r"\d$"}
    hashes = {opened(synthetic_shards, **chosen).manifest.hash for chosen in (*settings, by_group)}
    assert len(hashes) == 6
    assert opened(synthetic_shards, **by_group).manifest.hash in hashes


def test_too_many_folds_are_refused(synthetic_shards: Path) -> None:
    with pytest.raises(DataError, match="there are 24 samples in split train"):
        opened(synthetic_shards, folds=25, fold=0)
    with pytest.raises(ConfigError, match=r"makes 10 groups of .*, fewer than the data.folds=11"):
        opened(synthetic_shards, folds=11, fold=0, fold_by=r"\d$")
    with pytest.raises(DataError, match=r"data.fold_by 'cat' does not match 'train"):
        opened(synthetic_shards, folds=2, fold=0, fold_by="cat")


def test_a_split_of_the_folds_name_is_not_taken_for_one(synthetic_shards: Path) -> None:
    data = opened(synthetic_shards)
    renamed = replace(data.view, splits={**data.view.splits, "fold-0-of-2": data.view.split("val")})
    with pytest.raises(ConfigError, match="has a split fold-0-of-2 already"):
        viewed(renamed, DataConfig(folds=2, fold=0))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.fraction=0"], r"data.fraction=0.0: must lie in \(0, 1\]"),
        (["data.fold=0"], "data.fold=0: has no effect without data.folds"),
        (["data.fold_by=a"], "data.fold_by=a: has no effect without data.folds"),
        (["data.folds=1", "data.fold=0"], "data.folds=1: must lie between 2 and 255"),
        (["data.folds=3"], "set data.fold, 0 to 2, to the fold"),
        (["data.folds=3", "data.fold=3"], "data.fold=3: must lie between 0 and 2"),
        (["data.folds=3", "data.fold=0", "data.val_split=test"], "data.val_split=test: has no effect with data.folds"),
        (["data.folds=3", "data.fold=0", "data.fold_by=("], r"data.fold_by=\(: is not a regular expression"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([], overrides)
