"""Sampling by class: classes come as often as they should, in samples that hold them."""

import dataclasses
import io
import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.config.load import load_config
from dist_seg.config.schema import AugmentConfig, Config, DataConfig, TrainConfig
from dist_seg.data.loading.loader import train_batches
from dist_seg.data.plan.mixed_plan import BLOCK, MixedPlan
from dist_seg.data.plan.plan import PlannedSample, micro_batch_at
from dist_seg.data.plan.training_plan import class_sampling_weights, training_plan
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.data.shards.verify import verify
from dist_seg.data.view import open as run_data
from dist_seg.data.view.data_view import DataView, whole_view
from dist_seg.data.view.open import open_view
from dist_seg.data.view.reader import ShardReader
from dist_seg.errors import ConfigError, DataError
from dist_seg.storage.object_store import open_storage
from tests.loader_cases import CPU, scene_sample, write_dataset

TRAIN = TrainConfig(global_batch=8, micro_batch=2)


def opened(shards: Path, **data: object) -> tuple[DataView, DataConfig]:
    config = DataConfig(shards=str(shards), **{"sampling": "class_balanced", **data})  # type: ignore[arg-type]
    return open_view(config), config


def plan_of(shards: Path, **data: object) -> tuple[MixedPlan, ShardReader, DataView]:
    run, config = opened(shards, **data)
    plan = training_plan(config, TRAIN, run)
    assert isinstance(plan, MixedPlan)
    return plan, ShardReader(run, "train"), run


def samples_of(plan: MixedPlan, steps: int) -> list[PlannedSample]:
    return [s for step in range(steps) for lane in plan.micro_batches_at(step, range(plan.lanes)) for s in lane]


def held_classes(shards: Path) -> dict[str, set[int]]:
    """By key, decoded from the masks themselves."""
    storage = open_storage(shards)
    manifest = load_manifest(storage)
    reader, found = ShardReader(whole_view(storage, manifest), "train"), {}
    for shard, count in enumerate(reader.shard_samples):
        for index in range(count):
            sample = reader.read(shard, index)
            if sample.annotations is not None:
                found[sample.key] = {o.class_id for o in sample.annotations.objects if not o.crowd}
            else:
                with Image.open(io.BytesIO(sample.target)) as mask:
                    found[sample.key] = set(np.unique(np.asarray(mask)).tolist()) - {255}
    return found


@pytest.fixture(scope="module")
def held(synthetic_shards: Path) -> dict[str, set[int]]:
    return held_classes(synthetic_shards)


def test_the_index_knows_what_each_sample_holds(
    synthetic_shards: Path, instance_shards: Path, held: dict[str, set[int]]
) -> None:
    for folder, expected in ((synthetic_shards, held), (instance_shards, held_classes(instance_shards))):
        for shard in load_manifest(open_storage(folder)).split("train").shards:
            sidecar = Sidecar.parse((folder / shard.sidecar_name).read_bytes())
            for i in range(sidecar.num_samples):
                assert set(sidecar.classes(i)) == expected[sidecar.key(i)]
            counts = Counter(c for i in range(sidecar.num_samples) for c in expected[sidecar.key(i)])
            assert shard.class_samples == tuple(counts[c] for c in range(sidecar.num_classes))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"class_map": {"disk": "round", "ring": "round", "square": None}},
        {"folds": 3, "fold": 1, "fraction": 0.7},
        {"folds": 3, "fold": 1, "fold_by": r"\d$", "class_map": {"cross": "disk"}},
    ],
)
def test_every_sample_holds_the_class_that_it_was_drawn_for(
    synthetic_shards: Path, held: dict[str, set[int]], data: dict[str, object]
) -> None:
    plan, reader, manifest = plan_of(synthetic_shards, **data)
    chosen = {
        reader.info(shard, index).key for shard, count in enumerate(reader.shard_samples) for index in range(count)
    }
    old_names = load_manifest(open_storage(synthetic_shards)).class_names
    class_map = data.get("class_map", {})
    assert isinstance(class_map, dict)
    found: dict[int, set[str]] = {}
    for sample in samples_of(plan, 60):
        key = reader.read(sample.shard, sample.index, holding=sample.holding).key
        assert sample.holding is not None
        found.setdefault(sample.holding, set()).add(key)
    for class_id, name in enumerate(manifest.class_names):
        old = {i for i, old_name in enumerate(old_names) if class_map.get(old_name, old_name) == name}
        assert found[class_id] == {key for key in chosen if held[key] & old}, name


def test_objects_of_a_class_are_drawn_for(instance_shards: Path) -> None:
    plan, reader, _ = plan_of(instance_shards)
    expected = held_classes(instance_shards)
    found: dict[int | None, set[str]] = {}
    for sample in samples_of(plan, 40):
        key = reader.read(sample.shard, sample.index, holding=sample.holding).key
        found.setdefault(sample.holding, set()).add(key)
    assert found == {c: {key for key, classes in expected.items() if c in classes} for c in range(5)}


def test_balanced_classes_come_equally_often(synthetic_shards: Path) -> None:
    plan, _, manifest = plan_of(synthetic_shards)
    assert plan.shares == dict.fromkeys(manifest.class_names, 1 / 6)
    counts = Counter(sample.holding for sample in samples_of(plan, 150))
    assert sum((n - 200) ** 2 / 200 for n in counts.values()) < 20.5  # chi-square of 5 degrees, p = 0.001


def test_rare_classes_come_after_the_papers_formula(synthetic_shards: Path) -> None:
    plan, _, manifest = plan_of(synthetic_shards, sampling="rare_class", sampling_temperature=0.05)
    pixels = np.array(manifest.split("train").class_pixels, np.float64)
    expected = np.exp((1 - pixels / pixels.sum()) / 0.05)
    expected /= expected.sum()
    shares = [plan.shares[name] for name in manifest.class_names]
    assert shares == pytest.approx(expected, abs=1.5 / BLOCK)
    counts = Counter(sample.holding for sample in samples_of(plan, 150))
    often = [c for c in range(6) if expected[c] > 0.01]
    assert sum((counts[c] - 1200 * expected[c]) ** 2 / (1200 * expected[c]) for c in often) < 20.5


def test_the_formula_neither_overflows_nor_forgets_what_it_divides_by() -> None:
    assert class_sampling_weights([0.5, 0.25, 0.25], 0.25) == pytest.approx(
        [1 / (1 + 2 * math.e), *[1 / (2 + 1 / math.e)] * 2]
    )
    assert class_sampling_weights([1.0, 0.0], 1e-6) == [0.0, 1.0]


def test_batches_are_those_of_the_plan_and_repeats_are_drawn_anew(synthetic_shards: Path) -> None:
    run, data = opened(synthetic_shards, loader="torch")
    config = Config(data=data, train=TRAIN, augment=AugmentConfig(crop_height=32, crop_width=32))
    plan = training_plan(data, TRAIN, run)
    reader = ShardReader(run, "train")
    units = [(step, 0) for step in range(12)]
    batches = list(train_batches(config, run, plan, units, CPU))
    planned = [sample for unit in units for sample in micro_batch_at(plan, *unit)]
    keys = [reader.read(s.shard, s.index, holding=s.holding).key for s in planned]
    assert [key for batch in batches for key in batch.keys] == keys
    images = [image for batch in batches for image in batch.images]
    again = [(i, j) for j in range(len(keys)) for i in range(j) if keys[i] == keys[j]]
    assert again and all(not images[i].equal(images[j]) for i, j in again)


@pytest.mark.parametrize(("data", "is_listed"), [({}, True), ({"fraction": 0.5}, False)])
def test_counts_that_every_rank_has_in_its_manifest_are_not_sent(
    synthetic_shards: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, object], is_listed: bool
) -> None:
    sent: list[object] = []

    def on_main(work: Callable[[], object]) -> object:
        sent.append(work())
        return sent[-1]

    monkeypatch.setattr(run_data, "on_main", on_main)
    opened(synthetic_shards, **data)
    assert (sent[-1] is None) == is_listed


def test_a_rank_without_the_counts_that_rank_0_has_listed_says_so(
    synthetic_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[object] = [[{}], None]
    monkeypatch.setattr(run_data, "on_main", lambda _: answers.pop(0))
    with pytest.raises(DataError, match=r"manifest.json is not the one that rank 0 has read"):
        opened(synthetic_shards, fraction=0.5)


def test_data_without_the_classes_of_samples_says_what_to_do(tmp_path: Path) -> None:
    write_dataset(tmp_path, [scene_sample(seed) for seed in range(8)])
    with pytest.raises(
        DataError,
        match=r"the sidecar of train-000000.tar does not record which samples hold which classes.* pack the data again",
    ):
        opened(tmp_path)


def test_a_manifest_that_counts_other_holders_is_refused_and_found(synthetic_shards: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic_shards, tmp_path / "data")
    manifest = load_manifest(open_storage(tmp_path / "data"))
    split = manifest.split("train")
    changed = dataclasses.replace(split.shards[0], class_samples=(1, 1, 1, 1, 1, 1))
    splits = {**manifest.splits, "train": dataclasses.replace(split, shards=(changed, *split.shards[1:]))}
    (tmp_path / "data" / "manifest.json").write_text(dataclasses.replace(manifest, splits=splits).to_json())
    problems = [str(problem) for problem in verify(tmp_path / "data")]
    assert problems and all("train-000000.samples: samples that hold each class" in text for text in problems)
    run, _ = opened(tmp_path / "data")
    with pytest.raises(DataError, match="samples that hold each class"):
        ShardReader(run, "train").read(0, 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.sampling_temperature=0.1"], "data.sampling_temperature=0.1: has no effect with data.sampling=uniform"),
        (["data.sampling=rare_class", "data.sampling_temperature=0"], "must be greater than 0"),
        (["data.sampling=balanced"], "expected Literal"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([], overrides)
