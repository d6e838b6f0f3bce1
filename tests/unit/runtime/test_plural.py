"""Numbers with their nouns."""

import pytest

from dist_seg.runtime.plural import count_of


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "shard", "1 shard"),
        (0, "shard", "0 shards"),
        (2, "shard", "2 shards"),
        (1, "class", "1 class"),
        (5, "class", "5 classes"),
        (3, "epoch", "3 epochs"),
        (4, "micro-batch", "4 micro-batches"),
    ],
)
def test_plurals_are_right(count: int, noun: str, text: str) -> None:
    assert count_of(count, noun) == text
