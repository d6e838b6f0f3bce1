"""The confusion matrix of a split, equal to the last bit at 1, 2 and 3 ranks and to an independent count."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.view.data_view import whole_view
from dist_seg.distributed.world import World
from dist_seg.engine.evaluator import evaluate
from dist_seg.storage.object_store import open_storage
from dist_seg.tasks.classes import class_info
from dist_seg.tasks.semantic import SemanticTask
from tests.distributed.ranks import run_ranks
from tests.distributed.recording import Recording
from tests.distributed.training import small_config

pytestmark = pytest.mark.distributed

# (split, eval.batch): 24 images in batches of 5 do not divide; 8 in one batch leave ranks without any.
CASES = [("train", 5), ("val", 1), ("val", 8)]


class RecordingTask(SemanticTask):
    def record_in(self, folder: Path) -> "RecordingTask":
        self.folder = folder
        return self

    def metric(self) -> Recording:  # type: ignore[override]  # a Metric all the same
        return Recording(super().metric(), self.folder)


def evaluate_cases(world: World, shards: str, folder: str) -> list[dict[str, object]]:
    storage = open_storage(shards)
    view = whole_view(storage, load_manifest(storage))
    documents = []
    for number, (split, batch) in enumerate(CASES):
        config = small_config(shards, folder, [f"eval.batch={batch}", "eval.flip=true"])
        recorded = Path(folder) / f"case-{number}-ranks-{world.size}"
        recorded.mkdir(exist_ok=True)
        task = RecordingTask(config, class_info(view)).record_in(recorded)
        torch.manual_seed(0)
        result = evaluate(
            task.build_model(),
            task=task,
            config=config,
            view=view,
            split=split,
            world=world,
        )
        assert result is not None
        documents.append(dict(result.document))
    return documents


@pytest.fixture(scope="module")
def documents(
    synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[int, list[list[dict[str, object]]]]]:
    """The folder of recorded predictions, and by number of ranks every rank's documents of all cases."""
    folder = tmp_path_factory.mktemp("evaluation")
    function = "tests.distributed.test_exact_evaluation:evaluate_cases"
    by_ranks = {
        size: run_ranks(function, size, folder, shards=str(synthetic_shards), folder=str(folder)) for size in (1, 2, 3)
    }
    return folder, by_ranks  # type: ignore[return-value]  # JSON of what evaluate_cases returns


def counted_by_numpy(folder: Path, num_classes: int) -> tuple[NDArray[np.int64], list[str]]:
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    files = sorted(folder.glob("*.npz"))
    for file in files:
        arrays = np.load(file)
        counted = arrays["truth"] != 255
        np.add.at(matrix, (arrays["truth"][counted], arrays["prediction"][counted]), 1)
    return matrix, [file.stem for file in files]


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_rank_has_the_matrix_that_numpy_counts(
    documents: tuple[Path, dict[int, list[list[dict[str, object]]]]], case: int, size: int
) -> None:
    folder, by_ranks = documents
    matrix, keys = counted_by_numpy(folder / f"case-{case}-ranks-{size}", num_classes=6)
    assert len(keys) == {"train": 24, "val": 8}[CASES[case][0]]
    for cases in by_ranks[size]:
        assert np.array_equal(np.array(cases[case]["confusion_matrix"]), matrix)
        assert cases[case]["images"] == len(keys)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_whole_result_is_the_same_at_every_number_of_ranks(
    documents: tuple[Path, dict[int, list[list[dict[str, object]]]]], case: int
) -> None:
    found: Sequence[dict[str, object]] = [cases[case] for ranks in documents[1].values() for cases in ranks]
    assert len(found) == 6
    assert all(document == found[0] for document in found)
    assert isinstance(found[0]["miou"], float)
