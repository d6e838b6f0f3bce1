"""Which ranks are blamed where replicas differ."""

import pytest

from dist_seg.engine import digest
from dist_seg.engine.digest import ReplicaMismatchError, agreed_digest


def words_of(by_rank: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(digest, "gather_json", lambda _: by_rank)
    with pytest.raises(ReplicaMismatchError) as raised:
        agreed_digest(by_rank[0])
    return str(raised.value)


def test_the_ranks_against_the_majority_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the weights of ranks [1] differ from the others'" in words_of(["a", "b", "a"], monkeypatch)


@pytest.mark.parametrize("by_rank", [["a", "b"], ["a", "b", "b", "a"], ["a", "b", "c"]])
def test_without_a_majority_nobody_is_named(by_rank: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the ranks differ from each other" in words_of(by_rank, monkeypatch)
