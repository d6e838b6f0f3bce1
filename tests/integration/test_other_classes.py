"""Runs whose classes are changed while loading, and models that meet data with their classes in another order."""

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from dist_seg.commands.evaluate import _data_config
from dist_seg.config.load import load_config
from dist_seg.config.schema import DataConfig
from dist_seg.data.view.open import load_view, open_view
from dist_seg.distributed.world import World
from dist_seg.errors import UserError
from dist_seg.runs.model import TrainedModel
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.task import Task
from dist_seg.training.start_classes import in_order_of_start
from tests.distributed.ranks import run_ranks
from tests.distributed.training import SMALL, losses, train_on
from tests.integration.commands import dist_seg
from tests.loader_cases import PackedData, config, evaluate
from tests.other_classes import pack_other

CLASS_MAP = {"disk": "round", "ring": "round", "square": None}
NAMES = ("background", "round", "triangle", "cross")
SETTINGS = ["train.max_steps=2", "loss.class_weights=median_frequency", "optim.lr=0.01"]


def train_both(world: World, shards: str, packed: str, folder: str) -> list[object]:
    """The results of a run that changes the classes and of one on data packed with the changed ones."""
    results = []
    for name, data, more in (("mapped", shards, [f"data.class_map={json.dumps(CLASS_MAP)}"]), ("packed", packed, [])):
        outcome = train_on(world, data, f"{folder}/{name}", [*SETTINGS, *more])
        assert outcome.result is not None
        results.append(outcome.result.document)
    return results


@pytest.fixture(scope="module")
def both(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[object]]:
    """A folder with the runs `mapped` and `packed` and the data `data`, and the runs' results."""
    folder = tmp_path_factory.mktemp("both")
    pack_other(folder / "data", NAMES, CLASS_MAP)
    arguments = {"shards": str(synthetic_shards), "packed": str(folder / "data"), "folder": str(folder)}
    (results,) = run_ranks("tests.integration.test_other_classes:train_both", 1, folder, **arguments)
    assert isinstance(results, list)
    return folder, results


def test_training_and_result_are_those_of_the_data_packed_so(both: tuple[Path, list[object]]) -> None:
    folder, (mapped, packed) = both
    assert losses(folder / "mapped") == losses(folder / "packed")
    assert mapped == packed
    assert isinstance(mapped, dict) and mapped["class_names"] == list(NAMES)


def test_eval_gives_the_run_its_own_classes(both: tuple[Path, list[object]], tmp_path: Path) -> None:
    folder, (mapped, _) = both
    result = dist_seg("eval", folder / "mapped", "--out", tmp_path / "eval.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "eval.json").read_text())
    assert isinstance(mapped, dict) and found["confusion_matrix"] == mapped["confusion_matrix"]
    assert found["manifest_hash"] == found["trained_on_manifest_hash"]


def test_eval_on_classes_in_another_order_gives_the_same_score(both: tuple[Path, list[object]], tmp_path: Path) -> None:
    folder, (mapped, _) = both
    pack_other(tmp_path / "data", ("cross", "triangle", "background", "round"), CLASS_MAP)
    out = tmp_path / "eval.json"
    result = dist_seg("eval", folder / "mapped", "--data", tmp_path / "data", "--out", out, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(out.read_text())
    assert isinstance(mapped, dict)
    for name in ("confusion_matrix", "miou", "miou_interval", "iou", "class_names"):
        assert found[name] == mapped[name], name


def test_eval_refuses_classes_that_the_model_does_not_know_unless_told_what_they_are(
    both: tuple[Path, list[object]], synthetic_shards: Path, tmp_path: Path
) -> None:
    folder, (mapped, _) = both
    arguments = ["eval", folder / "packed", "--data", synthetic_shards, "--out", tmp_path / "eval.json"]
    refused = dist_seg(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert "classes that the model does not know: disk, square, ring" in refused.stderr
    assert "data.class_map={disk: null, square: null, ring: null}" in refused.stderr
    told = dist_seg(*arguments, f"data.class_map={json.dumps(CLASS_MAP)}", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert isinstance(mapped, dict)
    assert json.loads((tmp_path / "eval.json").read_text())["confusion_matrix"] == mapped["confusion_matrix"]


def test_evals_advice_keeps_what_the_run_calls_otherwise(both: tuple[Path, list[object]], tmp_path: Path) -> None:
    left_out = dict.fromkeys(["square", "triangle", "ring"])
    pack_other(tmp_path / "data", ("background", "disk", "lorry"), {**left_out, "cross": "lorry"})
    arguments = ["eval", both[0] / "mapped", "--data", tmp_path / "data", "--out", tmp_path / "eval.json"]
    refused = dist_seg(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    advice = refused.stderr.split("'")[1]
    assert advice == "data.class_map={disk: round, lorry: null}"
    assert dist_seg(*arguments, advice, cwd=tmp_path).returncode == 0


def test_eval_carries_the_runs_renaming_over_to_other_data(
    both: tuple[Path, list[object]], synthetic_shards: Path, tmp_path: Path
) -> None:
    folder, (mapped, _) = both
    for data in (synthetic_shards, folder / "data"):  # packed like the training data, and with the new names already
        out = tmp_path / "eval.json"
        result = dist_seg("eval", folder / "mapped", "--data", data, "--out", out, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert isinstance(mapped, dict)
        assert json.loads(out.read_text())["confusion_matrix"] == mapped["confusion_matrix"]


def test_resuming_with_other_classes_is_refused(both: tuple[Path, list[object]], synthetic_shards: Path) -> None:
    folder, _ = both
    result = dist_seg(
        "train", folder / "mapped" / "config.yaml", "data.class_map.cross=round", "train.max_steps=3", cwd=folder
    )
    assert result.returncode == 2
    assert "data.class_map: {'disk': 'round', 'ring': 'round', 'square': None} there" in result.stderr


ORDERED = ("cross", "background", "round", "triangle")


@pytest.mark.parametrize("sampling", ["uniform", "class_balanced"])
def test_weights_of_the_same_classes_in_another_order_keep_their_meaning(
    both: tuple[Path, list[object]], tmp_path: Path, sampling: str
) -> None:
    checkpoint = both[0] / "packed" / "checkpoints" / "step-00000002"
    pack_other(tmp_path / "data", ORDERED, CLASS_MAP)
    begun = [
        *SMALL,
        f"data.shards={tmp_path / 'data'}",
        f"run.dir={tmp_path / 'run'}",
        f"checkpoint.resume={checkpoint}",
        f"data.sampling={sampling}",
    ]
    for _ in range(2):  # The second time it goes on from its own, and is no run of other data.
        result = dist_seg("train", *begun, "train.max_steps=3", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "classes are in the order of the checkpoint: background, round" in result.stderr
        document = json.loads((tmp_path / "run" / "result.json").read_text())
        assert document["class_names"] == list(NAMES)
        assert (tmp_path / "run" / "report.html").exists() and (tmp_path / "run" / "pictures.png").exists()


def test_the_truth_follows_where_classes_are_put_in_the_order_of_weights(tmp_path: Path) -> None:
    pack_other(tmp_path / "named", NAMES, CLASS_MAP)
    pack_other(tmp_path / "ordered", ORDERED, CLASS_MAP)
    named, ordered = (load_view(DataConfig(shards=str(tmp_path / name))) for name in ("named", "ordered"))
    found = in_order_of_start(ordered, NAMES, log=False)
    assert (found.class_names, found.palette) == (
        NAMES,
        tuple(ordered.palette[ORDERED.index(n)] for n in NAMES),
    )
    assert found.split("val").class_pixels == named.split("val").class_pixels
    expected, seen = (
        evaluate(PackedData(storage, manifest), config(), split="val")
        for storage, manifest in ((named.storage, named), (ordered.storage, found))
    )
    for a, b in zip(expected, seen, strict=True):
        for one, two in zip(a, b, strict=True):
            assert one.keys == two.keys and torch.equal(one.targets, two.targets)


def test_counts_of_samples_follow_classes_in_another_order(tmp_path: Path) -> None:
    pack_other(tmp_path / "named", NAMES, CLASS_MAP)
    pack_other(tmp_path / "ordered", ORDERED, CLASS_MAP)
    settings = {"sampling": "class_balanced"}
    named, ordered = (
        open_view(DataConfig(shards=str(tmp_path / name), **settings))  # type: ignore[arg-type]
        for name in ("named", "ordered")
    )
    expected = named.split("train").class_samples
    found = in_order_of_start(ordered, NAMES, log=False).split("train").class_samples
    assert expected is not None and found is not None and not np.array_equal(expected[:, 0], expected[:, 1])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("case", ["fewer classes", "no step left"])
def test_weights_that_cannot_be_trained_on_are_refused(
    both: tuple[Path, list[object]], synthetic_shards: Path, tmp_path: Path, case: str
) -> None:
    checkpoint = both[0] / "packed" / "checkpoints" / "step-00000002"
    shards, steps, words = {
        "fewer classes": (synthetic_shards, 3, "its weights are for 4 classes (background, round, triangle, cross)"),
        "no step left": (both[0] / "data", 2, "is at step 2, and train.max_steps=2: no step is left"),
    }[case]
    data = [f"data.shards={shards}", f"run.dir={tmp_path / 'run'}"]
    more = [f"checkpoint.resume={checkpoint}", f"train.max_steps={steps}"]
    result = dist_seg("train", *SMALL, *data, *more, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr and "Traceback" not in result.stderr


def test_weights_of_other_classes_are_taken_with_a_warning(both: tuple[Path, list[object]], tmp_path: Path) -> None:
    checkpoint = both[0] / "packed" / "checkpoints" / "step-00000002"
    renamed = "data.class_map.round=disk"
    data = [f"data.shards={both[0] / 'data'}", f"run.dir={tmp_path / 'run'}", renamed]
    result = dist_seg("train", *SMALL, *data, f"checkpoint.resume={checkpoint}", "train.max_steps=3", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "the weights are for the classes background, round, triangle, cross, the data has" in result.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.sampling=rare_class"], "data.sampling: has no effect in eval"),
        (["--data", "data", "data.fraction=0.5"], "data.fraction: has no effect in eval with --data"),
        (
            ["data.folds=4", "data.fold=1"],
            "data.fold: leave it out; the run was trained on every fold except the one it",
        ),
    ],
)
def test_settings_without_effect_in_eval_are_refused(
    both: tuple[Path, list[object]], tmp_path: Path, settings: list[str], message: str
) -> None:
    result = dist_seg("eval", both[0] / "packed", *settings, "--out", tmp_path / "eval.json", cwd=both[0])
    assert result.returncode == 2
    assert message in result.stderr


def trained_on(*settings: str) -> TrainedModel:
    return TrainedModel(
        model=nn.Identity(),
        task=cast(Task, None),
        config=load_config([], settings),
        classes=ClassInfo(names=("square", "disk"), palette=((0, 0, 0),) * 2, ignore_index=255),
        step=1,
        weights="raw",
        manifest_hash="",
    )


def test_a_data_set_of_a_mix_is_given_its_own_classes(synthetic_shards: Path, tmp_path: Path) -> None:
    pack_other(tmp_path / "other", NAMES, CLASS_MAP)
    members = [
        {"name": "one", "shards": str(synthetic_shards), "class_map": CLASS_MAP},
        {"name": "two", "shards": str(tmp_path / "other"), "class_map": {"round": "disk"}},
    ]
    trained = trained_on(f"data.mix={json.dumps(members)}")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    shutil.copytree(synthetic_shards, tmp_path / "copy")
    for data, expected in (
        (synthetic_shards, CLASS_MAP),
        (tmp_path / "copy", CLASS_MAP),
        (tmp_path / "other", {"round": "disk"}),
        (tmp_path / "link", {"round": "disk"}),
    ):
        chosen = _data_config(trained, argparse.Namespace(data=str(data), settings=[], split=None))
        assert (chosen.shards, chosen.mix, chosen.class_map) == (str(data), (), expected)


def test_eval_of_a_mixed_run_takes_other_data_by_name_or_as_told(synthetic_shards: Path, tmp_path: Path) -> None:
    pack_other(tmp_path / "other", NAMES, CLASS_MAP)
    members = [
        {"name": "one", "shards": str(synthetic_shards), "class_map": CLASS_MAP},
        {"name": "two", "shards": str(tmp_path / "other")},
    ]
    base = ["data.mix=" + json.dumps(members), f"run.dir={tmp_path / 'run'}", "train.max_steps=1"]
    trained = dist_seg("train", *SMALL, *base, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    confusion = {}
    for what, data, settings in (
        ("by itself", synthetic_shards, []),
        ("told", synthetic_shards, [f"data.class_map={json.dumps(CLASS_MAP)}"]),
        ("new names", tmp_path / "other", []),
    ):
        arguments = ["eval", tmp_path / "run", "--data", data, *settings, "--out", tmp_path / "eval.json"]
        result = dist_seg(*arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        confusion[what] = json.loads((tmp_path / "eval.json").read_text())["confusion_matrix"]
    assert confusion["by itself"] == confusion["told"] == confusion["new names"]


def test_names_that_are_old_and_new_are_not_guessed(both: tuple[Path, list[object]], synthetic_shards: Path) -> None:
    trained = trained_on("data.class_map={disk: square, square: disk}")
    options = argparse.Namespace(data=str(synthetic_shards), settings=[], split=None)
    with pytest.raises(UserError, match="disk, square: both an old and a new name"):
        _data_config(trained, options)
    told = argparse.Namespace(data=str(synthetic_shards), settings=["data.class_map={}"], split=None)
    assert _data_config(dataclasses.replace(trained, config=load_config([])), told).class_map == {}
