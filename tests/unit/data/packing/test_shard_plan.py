"""Spreading samples over shards."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.data.packing.shard_plan import plan_shards
from dist_seg.data.raw.source import SampleRef
from dist_seg.data.shards.names import shard_key
from dist_seg.errors import DataError


def _refs(count: int, num_bytes: int = 1000, split: str = "train") -> list[SampleRef]:
    return [SampleRef(key=f"{i:04d}", split=split, where=f"{i}.png", num_bytes=num_bytes) for i in range(count)]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=100), st.integers(1, 10**7))
def test_every_sample_lies_in_one_shard(sizes: list[int], shard_bytes: int) -> None:
    refs = [SampleRef(key=str(i), split="train", where="", num_bytes=size) for i, size in enumerate(sizes)]
    jobs = plan_shards(refs, shard_bytes, ())
    assert sorted(sample.key for job in jobs for sample in job.samples) == sorted(ref.key for ref in refs)
    assert all(job.samples for job in jobs)


def test_shards_are_about_as_large_as_asked() -> None:
    jobs = plan_shards(_refs(1000), 100_000, ())
    assert {len(job.samples) for job in jobs} <= {32, 33}  # 3048 bytes each in a tar


def test_the_order_of_the_listing_does_not_matter() -> None:
    assert plan_shards(_refs(50), 20_000, ()) == plan_shards(_refs(50)[::-1], 20_000, ())


def test_a_reader_gets_its_samples_back_as_it_listed_them() -> None:
    ref = SampleRef(key="train/pic 0.x", split="train", where="")
    [job] = plan_shards([ref], 1000, ())
    assert job.samples == (ref,)


def test_neighbours_of_the_listing_are_mixed() -> None:
    jobs = plan_shards(_refs(400), 150_000, ())
    numbers = [int(sample.key) for sample in jobs[0].samples]
    assert min(numbers) < 50
    assert max(numbers) > 350


@pytest.mark.parametrize("change", ["key", "num_bytes", "version"])
def test_the_fingerprint_follows_the_samples(change: str) -> None:
    changed = {"key": "new", "num_bytes": 7, "version": "2"}[change]
    ref = SampleRef(key="a", split="train", where="", version="1")
    other = replace(ref, **{change: changed})
    assert plan_shards([ref], 1000, ())[0].fingerprint != plan_shards([other], 1000, ())[0].fingerprint


def test_nothing_is_known_of_a_shard_with_a_sample_without_a_version() -> None:
    refs = [SampleRef(key="a", split="train", where="", version="1"), SampleRef(key="b", split="train", where="")]
    assert plan_shards(refs, 10**6, ())[0].fingerprint == ""


def test_splits_have_shards_of_their_own() -> None:
    jobs = plan_shards(_refs(3) + _refs(3, split="val"), 10**6, ())
    assert [(job.name, job.split, len(job.samples)) for job in jobs] == [
        ("train-000000.tar", "train", 3),
        ("val-000000.tar", "val", 3),
    ]


def test_keys_that_become_equal_are_refused_with_both_files() -> None:
    refs = [SampleRef(key=key, split="train", where=f"{key}.png") for key in ("a.b", "a b")]
    with pytest.raises(DataError, match=r"a\.b\.png and a b\.png would both have the key 'a_b'"):
        plan_shards(refs, 1000, ())


@pytest.mark.parametrize("split", ["", "a/b", "..", "tra in", "-x"])
def test_a_split_must_be_a_plain_word(split: str) -> None:
    with pytest.raises(DataError, match="split"):
        plan_shards([SampleRef(key="a", split=split, where="a.png")], 1000, ())


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        plan_shards([], 1000, ())


@given(st.text(min_size=1, max_size=300))
def test_a_key_is_fit_for_a_tar_an_index_and_a_file_system(key: str) -> None:
    escaped = shard_key(key)
    assert len(escaped.encode()) <= 90
    assert not set(escaped) & set("./\\ \t\n\0:*?\"<>|'")
    assert escaped.split() == [escaped]
    assert shard_key(escaped) == escaped


def test_long_keys_stay_apart() -> None:
    assert shard_key("x" * 200 + "a") != shard_key("x" * 200 + "b")


def test_composed_and_decomposed_letters_are_one_key() -> None:
    assert shard_key("Stra\u00dfe_\u00e9") == shard_key("Stra\u00dfe_e\u0301") == "Stra\u00dfe_\u00e9"
