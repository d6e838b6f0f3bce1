"""Multi-label data: the same training and the same score at every number of ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dist_seg.data.formats.synthetic import SyntheticLabels, SyntheticSource
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.view.data_view import whole_view
from dist_seg.distributed.world import World
from dist_seg.engine.evaluator import evaluate
from dist_seg.runs.audit import audit
from dist_seg.storage.object_store import open_storage
from dist_seg.tasks.classes import class_info
from dist_seg.tasks.multilabel import MultiLabelTask
from tests.distributed.ranks import run_ranks
from tests.distributed.recording import Recording
from tests.distributed.training import EXACT, assert_close_states, losses, small_config, train_on

pytestmark = pytest.mark.distributed
OVERLAPPING = ["task=multilabel", "loss.dice=0.5", "eval.batch=5", "eval.flip=true"]
SIZES = (1, 2, 3)


class RecordingTask(MultiLabelTask):
    folder: Path

    def metric(self) -> Recording:  # type: ignore[override]  # a Metric all the same
        return Recording(super().metric(), self.folder)


def train_and_score(world: World, shards: str, run_dir: str) -> dict[str, object]:
    train_on(world, shards, run_dir, [*EXACT, *OVERLAPPING, "train.max_steps=3"])
    storage, config = open_storage(shards), small_config(shards, run_dir, OVERLAPPING)
    view = whole_view(storage, load_manifest(storage))
    task = RecordingTask(config, class_info(view))
    task.folder = Path(run_dir, "scored")
    task.folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    result = evaluate(
        task.build_model(),
        task=task,
        config=config,
        view=view,
        split="val",
        world=world,
    )
    assert result is not None
    return dict(result.document)


Runs = tuple[Path, dict[int, list[dict[str, object]]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The folder of the runs, and by number of ranks every rank's result."""
    folder = tmp_path_factory.mktemp("labels")
    scenes = SyntheticSource(num_train=24, num_val=8, height=48, width=64)
    pack(SyntheticLabels(scenes=scenes), folder / "shards", PackOptions(shard_bytes=30_000))
    function = "tests.distributed.test_multilabel:train_and_score"
    return folder, {  # type: ignore[return-value]  # JSON of what train_and_score returns
        size: run_ranks(function, size, folder, shards=str(folder / "shards"), run_dir=str(folder / f"run-{size}"))
        for size in SIZES
    }


@pytest.mark.parametrize("size", [2, 3])
def test_the_training_does_not_depend_on_the_number_of_ranks(runs: Runs, size: int) -> None:
    alone, shared = runs[0] / "run-1", runs[0] / f"run-{size}"
    assert len(losses(alone)) == 3
    assert losses(shared) == pytest.approx(losses(alone), rel=1e-9)
    assert_close_states(alone, shared, 3)
    assert audit(alone, shared).agrees


def test_the_whole_result_is_the_same_on_every_rank(runs: Runs) -> None:
    documents = [document for ranks in runs[1].values() for document in ranks]
    assert len(documents) == 6
    assert all(document == documents[0] for document in documents)


@pytest.mark.parametrize("size", SIZES)
def test_the_counts_are_those_of_every_image_once(runs: Runs, size: int) -> None:
    files = sorted((runs[0] / f"run-{size}" / "scored").glob("*.npz"))
    arrays = [np.load(file) for file in files]
    assert len(files) == 8
    for label, counts in enumerate(runs[1][size][0]["label_counts"].values()):  # type: ignore[attr-defined]
        found = np.concatenate([a["prediction"][label].ravel() for a in arrays])
        there = np.concatenate([a["truth"][label].ravel() for a in arrays]) == 1
        assert counts == {
            "true_positives": int((found & there).sum()),
            "false_positives": int((found & ~there).sum()),
            "false_negatives": int((~found & there).sum()),
            "true_negatives": int((~found & ~there).sum()),
        }
