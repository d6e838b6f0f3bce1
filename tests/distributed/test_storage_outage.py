"""Training on two ranks from a web server that fails, is gone for a while, or never comes back."""

import contextlib
import io
import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import cast
from unittest import mock

import pytest

from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.cli.main import main
from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.world import World
from dist_seg.telemetry.events import Event, StepDone
from tests.distributed.ranks import launch_ranks
from tests.distributed.training import SMALL, assert_equal_bits
from tests.unit.storage.range_server import flaky_server

pytestmark = pytest.mark.distributed

_RUN = [
    "train.global_batch=8",
    "train.max_steps=4",
    "train.num_threads=1",
    "checkpoint.interval_steps=1",
    "checkpoint.keep_last=9",
    "data.val_split=train",
]


class Outage:
    """A sink that takes the server away once the second step is done."""

    def __init__(self, run_dir: Path) -> None:
        self._order = (run_dir.parent / f"{run_dir.name}.order").read_text()

    def emit(self, event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            urllib.request.urlopen(self._order, timeout=10).close()

    def close(self) -> None:
        pass


def outage(run_dir: Path) -> Outage:
    return Outage(run_dir)


def train(world: World, url: str, folder: str) -> dict[str, object]:
    """By the name of the run, code and words of the command."""

    def run(name: str, *extra: str) -> dict[str, object]:
        words = io.StringIO()
        with (
            contextlib.redirect_stderr(words),
            mock.patch("dist_seg.report.render.render_report"),
            mock.patch("dist_seg.training.session.process_group", return_value=contextlib.nullcontext()),
        ):
            code = main(["train", f"data.shards={url}", f"run.dir={folder}/{name}", *SMALL, *_RUN, *extra])
        return {"code": code, "words": words.getvalue()}

    sink = f"telemetry.sinks=[{__name__}:outage]"
    with process_group(world, timeout_s=120):
        return {
            "undisturbed": run("undisturbed"),
            "disturbed": run("disturbed", sink, "data.retry_s=60"),
            "given up": run("given up", sink, "data.retry_s=1"),
        }


Found = Mapping[str, Mapping[str, object]]


@pytest.fixture(scope="module")
def outages(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Found], Path, int]:
    """What every rank found, the folder of the runs, and how often the server has answered that it cannot."""
    pytest.importorskip("obstore", reason="needs obstore (the storage extra)")
    shards, folder = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("outages")
    pack(SyntheticSource(num_train=24, num_val=0, height=48, width=64), shards, PackOptions(shard_bytes=60_000))
    with flaky_server(shards) as server:
        (folder / "disturbed.order").write_text(f"{server.url}/fail-for/1.5")
        (folder / "given up.order").write_text(f"{server.url}/fail-for/ever")
        found = launch_ranks(f"{__name__}:train", 2, folder, url=server.url, folder=str(folder))
        return cast(list[Found], found), folder, server.refused


def test_a_server_that_comes_back_leaves_the_bits_of_a_run_without_outage(
    outages: tuple[list[Found], Path, int],
) -> None:
    found, folder, num_refused = outages
    assert [rank["disturbed"]["code"] for rank in found] == [0, 0]
    assert num_refused >= 5
    assert_equal_bits(folder / "undisturbed", folder / "disturbed", 4)


def test_one_that_stays_away_ends_all_ranks_with_a_fault_that_names_the_object(
    outages: tuple[list[Found], Path, int],
) -> None:
    found, folder, _ = outages
    for rank in found:
        assert rank["given up"]["code"] == 1
        assert "train-00000" in str(rank["given up"]["words"])
        assert "cannot be read" in str(rank["given up"]["words"])
    ended = json.loads((folder / "given up" / "outcome.json").read_text())
    assert (ended["outcome"], ended["exit_code"]) == ("failed", 1)


@pytest.mark.usefixtures("outages")
def test_the_checkpoint_of_the_last_step_is_there_after_it(outages: tuple[list[Found], Path, int]) -> None:
    _, folder, _ = outages
    checkpoint = CheckpointStore(folder / "given up" / "checkpoints").newest_whole()
    assert checkpoint is not None
    assert Path(checkpoint).name == "step-00000002"
