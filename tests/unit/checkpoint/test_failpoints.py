"""A process that dies at any of a save's changes to the disk leaves the newest whole checkpoint to be found."""

import subprocess
import sys
from pathlib import Path

import pytest

from dist_seg.checkpoint.reading import load_checkpoint, verify_checkpoint
from dist_seg.checkpoint.store import CheckpointStore, Retention
from dist_seg.errors import CheckpointError
from dist_seg.storage import object_store as storage_module
from tests.failpoints import Failpoints, killed
from tests.faulty_store import Store
from tests.integration.commands import ROOT, environment
from tests.unit.checkpoint.states import differences, state_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and kills")
DIED_AT_END = "end"


def save_and_score(root: Path, die_at: int, *, power_cut: bool) -> int:
    """Saves step 2 beside step 1, records its score and prunes. The number of changes, if it lives."""
    store = CheckpointStore(root)
    points = Failpoints(root, die_at, power_cut=power_cut)
    points.install()
    store.save(state_of(2))
    store.record_score(2, 0.5)
    store.prune(Retention(keep_last=2, keep_best=True, keep_every_steps=0))
    return points.count


def save_and_lose_power(root: Path) -> None:
    points = Failpoints(root, -1, power_cut=True)
    points.install()
    CheckpointStore(root).save(state_of(2))
    points.die()


def die_everywhere(folder: Path, *, power_cut: bool) -> None:
    """Leaves a folder for every point at which a save was killed, and one for a power cut right after a save."""
    for number in range(1, 1000):
        root = folder / f"{number}"
        CheckpointStore(root).save(state_of(1))
        CheckpointStore(root).record_score(1, 0.3)
        if not killed(lambda root=root, number=number: save_and_score(root, number, power_cut=power_cut)):
            break
    root = folder / DIED_AT_END
    CheckpointStore(root).save(state_of(1))
    assert killed(lambda: save_and_lose_power(root))


@pytest.fixture(scope="module", params=["kill", "power cut"])
def remains(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of saves that died at every point, in folders by its number; the highest number is of the save that lived."""
    folder = tmp_path_factory.mktemp("failpoints")
    program = f"from {__name__} import *; die_everywhere(Path({str(folder)!r}), power_cut={request.param != 'kill'})"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=environment(), timeout=250)
    return folder


def points(remains: Path) -> list[Path]:
    return sorted((path for path in remains.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def test_every_point_of_a_save_is_met(remains: Path) -> None:
    # Five files are opened, written and synchronised, two folders synchronised, one made, one renamed; three take a
    # second write, of what is left over past the page cache, or of the tensors; then the score: opened, synchronised,
    # renamed.
    assert len(points(remains)) - 1 >= 5 * 3 + 2 + 2 + 3 + 3
    assert CheckpointStore(points(remains)[-1]).steps() == [1, 2]


def test_the_newest_whole_checkpoint_is_chosen_wherever_the_save_died(remains: Path) -> None:
    wrong = []
    for root in points(remains):
        newest = CheckpointStore(root).newest_whole()
        step = 2 if newest is not None and newest.endswith("2") else 1
        if newest is None or differences(load_checkpoint(newest), state_of(step)):
            wrong.append(root.name)
    assert wrong == []


def test_nothing_half_is_ever_listed(remains: Path) -> None:
    for root in points(remains):
        for step in CheckpointStore(root).steps():
            verify_checkpoint(CheckpointStore(root).path(step))


def test_scores_are_the_old_or_the_new_ones(remains: Path) -> None:
    found = [CheckpointStore(root).scores() for root in points(remains)]
    assert all(scores in ({1: 0.3}, {1: 0.3, 2: 0.5}) for scores in found)


def test_the_next_save_is_whole_and_leaves_nothing_of_the_one_that_died(remains: Path) -> None:
    for root in points(remains):
        store = CheckpointStore(root)
        store.save(state_of(3))
        assert differences(load_checkpoint(store.path(3)), state_of(3)) == []
        assert not list(root.glob(".step-*")) and not list(root.glob(".deleted-*"))


def test_a_save_that_has_returned_outlives_a_power_cut(remains: Path) -> None:
    assert CheckpointStore(remains / DIED_AT_END).newest_whole() == str(remains / DIED_AT_END / "step-00000002")


def test_an_upload_that_ends_at_any_request_leaves_the_newest_whole_checkpoint(
    s3_url: str, faulty: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    CheckpointStore(s3_url).save(state_of(1))
    monkeypatch.setattr(storage_module, "RETRY_S", 0.0)
    for number in range(100):
        store, left = CheckpointStore(s3_url), number

        def away(method: str, path: str) -> str | None:
            nonlocal left
            left -= 1
            return "refuse" if left < 0 else None

        faulty.fault_of = away  # type: ignore[assignment]  # "refuse" is a fault
        try:
            store.save(state_of(2))
        except CheckpointError:
            faulty.fault_of = lambda method, path: None
            assert store.newest_whole() == store.path(1)
        else:
            break
    faulty.fault_of = lambda method, path: None
    assert number >= 6  # A listing, five objects.
    assert differences(load_checkpoint(store.path(2)), state_of(2)) == []
