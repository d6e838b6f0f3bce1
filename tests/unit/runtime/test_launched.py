import pytest

from dist_seg.runtime.launched import LaunchedRank, launched_rank


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_no_launcher_started_has_no_rank() -> None:
    assert launched_rank() is None


def test_the_variables_of_torchrun_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, text)
    assert launched_rank() == LaunchedRank(rank=5, local_rank=1, world_size=8)


def test_a_variable_that_is_no_number_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "many")
    assert launched_rank() == LaunchedRank(rank=2, local_rank=0, world_size=1)
