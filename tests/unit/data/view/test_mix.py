"""Several data sets read as one: classes by name, keys by data set, shares by weight."""

import io
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.config.load import config_from_tree, load_config, to_tree, to_yaml
from dist_seg.config.schema import DataConfig, MixMember, TrainConfig
from dist_seg.data.codecs.npy import ArrayLayout
from dist_seg.data.codecs.targets import why_undecodable
from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.loading.loader import train_batches
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.plan.mixed_plan import MixedPlan
from dist_seg.data.plan.plan import micro_batch_at
from dist_seg.data.plan.training_plan import training_plan
from dist_seg.data.shards.bad_shards import find_bad_shards
from dist_seg.data.shards.manifest import ChannelStatistics, Manifest, ObjectCounts, ShardInfo, Split
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.view.data_view import DataView, whole_view
from dist_seg.data.view.mix import united
from dist_seg.data.view.open import load_view, open_view
from dist_seg.data.view.reader import ShardReader
from dist_seg.data.view.taxonomy import align_classes, map_classes
from dist_seg.errors import ConfigError, DataError
from dist_seg.storage.object_store import LocalStorage, open_storage
from tests.loader_cases import (
    AUGMENTATIONS,
    CPU,
    PackedData,
    config,
    encode,
    evaluate,
    scene,
    scene_sample,
    write_dataset,
)
from tests.other_classes import OtherClasses, pack_other

TRAIN = TrainConfig(global_batch=8, micro_batch=2)
NAMES = ("background", "disk", "square", "triangle", "ring", "cross", "round", "corner")
"""Of `mix_of` together: the synthetic classes, then the two that the other data set has of its own."""


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures with classes of their own, in another order."""
    out = tmp_path_factory.mktemp("others")
    class_map = {"disk": "round", "ring": "round", "square": "corner", "triangle": "corner", "cross": None}
    pack_other(out, ("round", "background", "corner"), class_map)
    return out


def unstored(manifest: Manifest) -> DataView:
    """A view whose shards are not read."""
    return whole_view(LocalStorage(Path("unread")), manifest)


def mix_of(first: Path, second: Path, *weights: float, **data: object) -> DataConfig:
    members = tuple(
        MixMember(name=name, shards=str(shards), weight=weight)
        for name, shards, weight in zip("ab", (first, second), weights or (None, None), strict=True)
    )
    return DataConfig(mix=members, loader="torch", **data)  # type: ignore[arg-type]


def test_classes_are_united_by_name_in_the_order_of_their_first_appearance(
    synthetic_shards: Path, others: Path
) -> None:
    found = load_view(mix_of(synthetic_shards, others))
    first, second = (load_view(DataConfig(shards=str(path))) for path in (synthetic_shards, others))
    assert found.class_names == NAMES
    for name in ("train", "val"):
        pixels = dict.fromkeys(NAMES, 0)
        for part in (first, second):
            for class_name, count in zip(part.class_names, part.split(name).class_pixels, strict=True):
                pixels[class_name] += count
        assert found.split(name).class_pixels == tuple(pixels.values())
        assert found.split(name).num_samples == first.split(name).num_samples + second.split(name).num_samples
    assert found.class_ids == {"a": (0, 1, 2, 3, 4, 5), "b": (6, 0, 7)}
    assert found.packed_ignore == {"a": 255, "b": 255}


@pytest.mark.parametrize("names", [NAMES, (*NAMES[::-1], "another"), ("another", *NAMES[3:], *NAMES[:3])])
@pytest.mark.parametrize("ignore_index", [255, 200])
def test_samples_have_the_keys_and_masks_of_their_data_set(
    synthetic_shards: Path, others: Path, names: tuple[str, ...], ignore_index: int
) -> None:
    """Also with the classes of a model that has them in another order, and more."""
    run = load_view(mix_of(synthetic_shards, others))
    manifest = align_classes(run, names, tuple((i, i, i) for i in range(len(names))), None, ignore_index)
    pixels = dict(zip(run.class_names, run.split("val").class_pixels, strict=True))
    assert manifest.split("val").class_pixels == tuple(pixels.get(name, 0) for name in names)
    whole = evaluate(PackedData(run.storage, manifest), config(), split="val", batch=1)
    batches = {batch.keys[0]: batch for group in whole for batch in group}
    assert len(batches) == 16
    for dataset, shards in (("a", synthetic_shards), ("b", others)):
        alone = load_view(DataConfig(shards=str(shards)))
        reader = ShardReader(alone, "val")
        of_classes = [names.index(name) for name in alone.class_names]
        ids = np.array(of_classes + [ignore_index] * 256, np.int64)[:256]
        for shard, count in enumerate(reader.shard_samples):
            for index in range(count):
                sample = reader.read(shard, index)
                with Image.open(io.BytesIO(sample.target)) as mask:
                    expected = ids[np.asarray(mask)]
                assert np.array_equal(batches[f"{dataset}/{sample.key}"].targets[0].numpy(), expected)


@pytest.mark.parametrize(("weights", "share"), [((), 0.5), ((3.0, 1.0), 0.75)])
def test_batches_have_the_shares_of_the_weights(
    synthetic_shards: Path, others: Path, weights: tuple[float, ...], share: float
) -> None:
    data = mix_of(synthetic_shards, others, *weights)
    run = open_view(data)
    plan = training_plan(data, TRAIN, run)
    assert isinstance(plan, MixedPlan) and plan.shares == {"a": share, "b": 1 - share}
    cfg = replace(config(AUGMENTATIONS["crop"]), data=data, train=TRAIN)
    units = [(step, lane) for step in range(6) for lane in range(4)]
    batches = list(train_batches(cfg, run, plan, units, CPU))
    keys = [key for batch in batches for key in batch.keys]
    found = Counter(key.split("/")[0] for key in keys)
    assert found["a"] / len(keys) == pytest.approx(share, abs=0.15)
    reader = ShardReader(run, "train")
    planned = [sample for unit in units for sample in micro_batch_at(plan, *unit)]
    assert keys == [reader.info(sample.shard, sample.index).key for sample in planned]


def test_each_data_set_may_rename_its_classes(synthetic_shards: Path, others: Path) -> None:
    data = mix_of(synthetic_shards, others)
    mapped = replace(data.mix[0], class_map={"disk": "round", "ring": "round", "cross": None, "square": "corner"})
    run = load_view(replace(data, mix=(mapped, data.mix[1])))
    assert run.class_names == ("background", "round", "corner", "triangle")
    assert run.class_ids == {"a": (0, 1, 2, 3, 1, 255), "b": (1, 0, 2)}


def test_a_class_that_a_data_set_lacks_is_named_with_it(synthetic_shards: Path, others: Path) -> None:
    data = mix_of(synthetic_shards, others)
    wrong = replace(data.mix[1], class_map={"rond": "round"})
    with pytest.raises(ConfigError, match="class_map of b: the data has no class 'rond'; did you mean 'round'"):
        load_view(replace(data, mix=(data.mix[0], wrong)))


def test_folds_and_fractions_are_of_each_data_set(synthetic_shards: Path, others: Path) -> None:
    data = mix_of(synthetic_shards, others, folds=3, fold=1, fraction=0.5)
    run = open_view(data)
    for split, of_each in (("train", 8), ("fold-1-of-3", 8), ("val", 8)):
        reader = ShardReader(run, split)
        keys = [reader.info(s, i).key for s, count in enumerate(reader.shard_samples) for i in range(count)]
        assert Counter(key[0] for key in keys) == {"a": of_each, "b": of_each}
        for dataset, shards in (("a", synthetic_shards), ("b", others)):
            alone = load_view(DataConfig(shards=str(shards), folds=3, fold=1, fraction=0.5))
            own = ShardReader(alone, split)
            expected = [own.info(s, i).key for s, count in enumerate(own.shard_samples) for i in range(count)]
            assert [key[2:] for key in keys if key[0] == dataset] == expected


def test_classes_are_sampled_over_all_data_sets(synthetic_shards: Path, others: Path) -> None:
    data = mix_of(synthetic_shards, others, sampling="class_balanced")
    run = open_view(data)
    plan = training_plan(data, TRAIN, run)
    assert isinstance(plan, MixedPlan) and plan.shares == dict.fromkeys(NAMES, 1 / 8)
    reader = ShardReader(run, "train")
    found: dict[str, set[str]] = {name: set() for name in NAMES}
    for step in range(30):
        for lane in plan.micro_batches_at(step, range(plan.lanes)):
            for s in lane:
                assert s.holding is not None
                found[NAMES[s.holding]].add(reader.read(s.shard, s.index, holding=s.holding).key[0])
    assert found["background"] == {"a", "b"} and found["corner"] == {"b"} and found["cross"] == {"a"}


def test_a_lost_shard_is_named_with_its_data_set(synthetic_shards: Path, others: Path, tmp_path: Path) -> None:
    shutil.copytree(others, tmp_path / "others")
    (tmp_path / "others" / "train-000000.tar").unlink()
    run = load_view(mix_of(synthetic_shards, tmp_path / "others"))
    assert find_bad_shards(run.storage, run.split("train").shards) == {"b/train-000000.tar": "is missing"}


def _instances(category_ids: tuple[int, ...], names: tuple[str, ...], sides: tuple[float, ...]) -> Manifest:
    shard = ShardInfo(name="train-0.tar", bytes=10240, sha256="", samples=2, index_sha256="", sidecar_sha256="")
    counts = ObjectCounts(
        class_objects=(3,) * len(names),
        crowd_objects=1,
        max_objects=4,
        sides=sides,
        overfull_objects=0,
        hidden_pixels=0,
        skipped_annotations=0,
    )
    split = Split(shards=(shard,), class_pixels=(5,) * len(names), ignored_pixels=0, objects=counts)
    palette = ((0, 0, 0),) * len(names)
    return unstored(
        Manifest(
            task="instance", class_names=names, palette=palette, category_ids=category_ids, splits={"train": split}
        )
    )


def test_categories_that_collide_are_given_other_numbers() -> None:
    parts = {"a": _instances((1, 7), ("cat", "dog"), (10.0,) * 5), "b": _instances((7,), ("cow",), (40.0,) * 5)}
    found = united(parts)
    assert found.category_ids == (1, 7, 8)
    objects = found.split("train").objects
    assert objects is not None
    assert (objects.class_objects, objects.crowd_objects, objects.sides) == ((3, 3, 3), 2, (20.0,) * 5)


def test_another_ignore_index_is_brought_to_255() -> None:
    part = unstored(Manifest(class_names=("a", "b"), palette=((0, 0, 0),) * 2, ignore_index=2, splits={}))
    assert united({"x": part, "y": replace(part, ignore_index=255)}).class_ids == {"x": (0, 1)}


def test_statistics_of_arrays_are_those_of_all_images_together() -> None:
    values = {"x": np.array([1.0, 5.0, 9.0]), "y": np.array([100.0, 300.0, 500.0, 40.0, 60.0, 80.0])}
    layout = ArrayLayout(dtype="uint16", channels=1)
    parts = {}
    for name, numbers in values.items():  # images of one pixel each
        shard = ShardInfo(
            name="train-0.tar", bytes=10**6, sha256="", samples=len(numbers), index_sha256="", sidecar_sha256=""
        )
        statistics = ChannelStatistics(
            low=(int(numbers.min()),), high=(int(numbers.max()),), mean=(numbers.mean(),), std=(numbers.std(),)
        )
        split = Split(shards=(shard,), class_pixels=(len(numbers),), ignored_pixels=0, channels=statistics)
        manifest = Manifest(class_names=("a",), palette=((0, 0, 0),), image=layout, splits={"train": split})
        parts[name] = unstored(manifest)
    found, together = united(parts).split("train").channels, np.concatenate(list(values.values()))
    assert found is not None and (found.low, found.high) == ((1,), (500,))
    assert found.mean + found.std == pytest.approx((together.mean(), together.std()))
    with pytest.raises(ConfigError, match="hold different images"):
        united({"x": parts["x"], "y": replace(parts["y"], image=None)})


def test_data_sets_of_different_tasks_are_refused(synthetic_shards: Path, instance_shards: Path) -> None:
    with pytest.raises(ConfigError, match=r"different tasks \(a: semantic, b: instance\)"):
        load_view(mix_of(synthetic_shards, instance_shards))


def test_a_mix_survives_yaml_and_checkpoints(tmp_path: Path) -> None:
    second = "{name: b, shards: y, weight: 2, class_map: {car: null, bus: car}}"
    mixed = load_config([], [f"data.mix=[{{name: a, shards: x, weight: 0.5}}, {second}]"])
    assert mixed.data.mix == (
        MixMember(name="a", shards="x", weight=0.5),
        MixMember(name="b", shards="y", weight=2.0, class_map={"car": None, "bus": "car"}),
    )
    (tmp_path / "mix.yaml").write_text(to_yaml(mixed))
    assert load_config([tmp_path / "mix.yaml"]) == mixed
    assert config_from_tree(to_tree(mixed), "checkpoint") == mixed


MEMBERS = "{name: a, shards: x}, {name: b, shards: y}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.mix=[{name: a, shards: x}]"], "give at least two data sets"),
        (["data.mix=[{name: a, shards: x}, {name: a, shards: y}]"], "each with its own name"),
        (["data.mix=[{name: a/b, shards: x}, {name: b, shards: y}]"], "the name 'a/b' may contain only letters"),
        (["data.mix=[{name: a}, {name: b, shards: y}]"], "data.mix"),
        ([f"data.mix=[{MEMBERS}]", "data.shards=z"], "data.shards=z: set it or data.mix, not both"),
        ([f"data.mix=[{MEMBERS}]", "data.class_map={c: d}"], "data.class_map: has no effect with data.mix"),
        (["data.mix=[{name: a, shards: x, weight: 1}, {name: b, shards: y}]"], "every data set a weight, or none"),
        (["data.mix=[{name: a, shards: x, weight: 0}, {name: b, shards: y, weight: 1}]"], "must be positive"),
        (["data.mix=[{name: a, shards: x, weight: .inf}, {name: b, shards: y, weight: 1}]"], "must be positive"),
        (
            [
                "data.mix=[{name: a, shards: x, weight: 1}, {name: b, shards: y, weight: 1}]",
                "data.sampling=class_balanced",
            ],
            "weights have no effect with data.sampling=class_balanced",
        ),
    ],
)
def test_mixes_that_make_no_sense_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([], overrides)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The synthetic pictures with their six classes, and with fourteen more that no picture shows."""
    folder = tmp_path_factory.mktemp("many")
    few = SyntheticSource(num_train=12, num_val=4, height=32, width=32)
    pack(few, folder / "few", PackOptions(shard_bytes=20_000))
    names = (*few.class_names, *(f"more{i}" for i in range(14)))
    palette = tuple((i, i, i) for i in range(20))
    pack(OtherClasses(scenes=few, class_names=names, palette=palette, targets=range(6)), folder / "many")
    return folder / "few", folder / "many"


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_classes_are_sampled_where_a_data_set_has_only_the_first_of_them(
    many: tuple[Path, Path], fraction: float
) -> None:
    data = mix_of(*many, sampling="class_balanced", fraction=fraction)
    found = open_view(data)
    plan = training_plan(data, TRAIN, found)
    assert isinstance(plan, MixedPlan)
    counts = np.array(found.split("train").class_samples)
    assert counts.shape[1] == 20
    assert counts[:, :6].sum() > 0
    assert not counts[:, 6:].any()


def test_an_id_that_was_no_class_when_it_was_packed_stays_a_bad_sample(tmp_path: Path) -> None:
    """Among the classes of all data sets it would be another one's, and of merged classes be ignored in silence."""
    mask = scene(1, 40, 56)[1] % 5
    mask[7, 9] = 5
    bad = replace(scene_sample(1, height=40, width=56), key="bad", target=encode(mask, "PNG"))
    whole = [replace(scene_sample(i, height=40, width=56), target=encode(mask % 5, "PNG")) for i in range(2, 9)]
    packed = write_dataset(tmp_path, [bad, *whole])
    small = replace(packed.manifest, class_names=tuple("abcde"), palette=((0, 0, 0),) * 5)
    split = replace(small.split("train"), class_pixels=(1,) * 5)
    small = replace(small, splits={"train": split})
    more = replace(small, class_names=tuple("abcdefgh"), palette=((0, 0, 0),) * 8)
    more = replace(more, splits={"train": replace(split, class_pixels=(1,) * 8)})
    alone, other = (whole_view(packed.storage, manifest) for manifest in (small, more))
    for view in (alone, map_classes(alone, {"a": "b"}, "m"), united({"x": alone, "y": other})):
        reader = ShardReader(view, "train")
        assert why_undecodable(reader.read(0, 0)) == "mask: class id 5, for 5 classes"
        assert why_undecodable(reader.read(0, 1)) is None


def test_more_classes_than_ids_are_refused() -> None:
    def wide(letter: str) -> DataView:
        names = tuple(f"{letter}{i}" for i in range(128))
        return unstored(Manifest(class_names=names, palette=((0, 0, 0),) * 128, splits={}))

    with pytest.raises(ConfigError, match="256 classes together, at most 255"):
        united({"a": wide("a"), "b": wide("b")})


@pytest.mark.parametrize("sampling", ["uniform", "rare_class"])
def test_a_data_set_without_the_training_split_is_refused_by_name(
    synthetic_shards: Path, tmp_path: Path, sampling: str
) -> None:
    pack(SyntheticSource(num_train=4, num_val=4, height=32, width=32), tmp_path / "other")
    manifest = load_manifest(open_storage(tmp_path / "other"))
    alone = replace(manifest, splits={"val": manifest.split("val")})
    (tmp_path / "other" / "manifest.json").write_text(alone.to_json())
    with pytest.raises(DataError, match=r"data\.mix: b .* has no samples of split train; it has val"):
        open_view(mix_of(synthetic_shards, tmp_path / "other", sampling=sampling))
