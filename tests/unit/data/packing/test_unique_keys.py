"""Keys that come twice in a split are found, and few bytes are held for each of the others."""

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from dist_seg.data.packing.unique_keys import KeysOf, check_one_split, check_unique_keys
from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.data.shards.writer import SampleEntry
from dist_seg.errors import DataError


def shard_of(keys: list[str], where: str, split: str = "train") -> KeysOf:
    entries = [SampleEntry(key=key, height=1, width=1, members=()) for key in keys]
    return KeysOf(split=split, where=where, load=lambda: Sidecar.of(entries, roles=()))


def test_a_key_in_two_shards_is_named_with_both() -> None:
    shards = [shard_of(["a", "b"], "one"), shard_of(["c"], "two"), shard_of(["d", "b"], "three")]
    with pytest.raises(DataError, match="one and three: the key 'b' is twice in split train; rename it"):
        check_unique_keys(shards, "rename it")


def test_a_key_twice_in_one_shard_is_named_with_it() -> None:
    with pytest.raises(DataError, match=r"^one: the key 'a' is twice"):
        check_unique_keys([shard_of(["a", "b", "a"], "one")], "rename it")


def test_a_key_may_be_in_several_splits() -> None:
    check_unique_keys([shard_of(["a"], "one"), shard_of(["a"], "two", "val"), shard_of([], "three", "test")], "")


@pytest.mark.parametrize(("check", "size"), [(check_unique_keys, 14), (check_one_split, 26)])
def test_a_few_bytes_are_held_for_a_key(check: Callable[[Sequence[KeysOf], str], None], size: int) -> None:
    shards = [
        replace(
            shard_of([f"{i:03d}-{j:03d}" for j in range(100)], str(i), "val" if i < 5 else "train"), data_set=str(i % 2)
        )
        for i in range(500)
    ]
    tracemalloc.start()
    check(shards, "")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 50_000 * size + 100_000  # beside one shard's index
