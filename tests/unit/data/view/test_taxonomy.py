"""Classes changed while loading are those that packing with the new classes would give."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_seg.config.schema import Config, DataConfig
from dist_seg.data.codecs.annotations import EVERY_CLASS, ImageAnnotations, ObjectAnnotation
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.label_layers import encode_labels
from dist_seg.data.codecs.object_layers import mapped_annotations
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.torch_loader import SegmentationDataset
from dist_seg.data.shards.manifest import Manifest, ObjectCounts, ShardInfo, Split
from dist_seg.data.view.data_view import DataView, whole_view
from dist_seg.data.view.taxonomy import align_classes, class_id_table, map_classes, unknown_classes
from dist_seg.errors import ConfigError
from dist_seg.storage.object_store import LocalStorage
from tests.loader_cases import (
    AUGMENTATIONS,
    NUM_CLASSES,
    PackedData,
    config,
    evaluate,
    opened,
    scene_sample,
    train,
    write_dataset,
)
from tests.other_classes import pack_other, pack_other_objects
from tests.unit.data.codecs.test_label_layers import layers as label_layers

SHAPES = {"disk": "round", "ring": "round", "square": None, "cross": "disk"}
NEW_NAMES = ("background", "round", "triangle", "disk")

NAMES = ("road", "car", "truck", "sky")
COLORS = ((1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4))


def packed(ignore_index: int = 255, task: str = "semantic") -> DataView:
    shard = ShardInfo(name="train-0.tar", bytes=10240, sha256="", samples=2, index_sha256="", sidecar_sha256="")
    objects = ObjectCounts(
        class_objects=(1, 2, 3, 4),
        crowd_objects=5,
        max_objects=6,
        sides=(),
        overfull_objects=0,
        hidden_pixels=0,
        skipped_annotations=0,
    )
    split = Split(
        shards=(shard,),
        class_pixels=(10, 20, 30, 40),
        ignored_pixels=7,
        objects=objects if task == "instance" else None,
    )
    manifest = Manifest(
        task=task,
        class_names=NAMES,
        palette=COLORS,
        ignore_index=ignore_index,
        category_ids=(7, 8, 9, 10) if task == "instance" else None,
        splits={"train": split},
    )
    return whole_view(LocalStorage(Path("unread")), manifest)


def test_classes_are_renamed_merged_and_ignored_in_the_order_of_their_first_appearance() -> None:
    found = map_classes(packed(), {"road": None, "truck": "vehicle", "car": "vehicle", "sky": "air"}, "m")
    assert found.class_names == ("vehicle", "air")
    assert found.palette == (COLORS[1], COLORS[3])
    assert found.splits["train"].class_pixels == (50, 40)
    assert found.splits["train"].ignored_pixels == 17
    table = class_id_table(found, None)
    assert table is not None and table[[0, 1, 2, 3, 255]].tolist() == [255, 0, 0, 1, 255]


def test_a_class_may_be_merged_into_one_that_is_there() -> None:
    found = map_classes(packed(), {"truck": "car"}, "m")
    assert (found.class_names, found.splits["train"].class_pixels) == (("road", "car", "sky"), (10, 50, 40))


def test_objects_and_categories_of_instances_follow() -> None:
    found = map_classes(packed(task="instance"), {"truck": "car", "sky": None}, "m")
    assert found.category_ids == (7, 8)
    objects = found.splits["train"].objects
    assert objects is not None and (objects.class_objects, objects.crowd_objects) == ((1, 5), 9)


@pytest.mark.parametrize("class_map", [{}, {"car": "car"}])
def test_a_map_that_changes_nothing_leaves_the_very_manifest(class_map: dict[str, str | None]) -> None:
    before = packed()
    assert map_classes(before, class_map, "m") is before


def test_classes_that_are_only_called_otherwise_keep_their_ids() -> None:
    found = map_classes(packed(), {"car": "auto"}, "m")
    assert found.class_names == ("road", "auto", "truck", "sky")
    assert class_id_table(found, None) is None
    assert found.hash != packed().hash


def test_another_ignore_index_becomes_255() -> None:
    found = map_classes(packed(ignore_index=4), {"car": "auto"}, "m")
    table = class_id_table(found, None)
    assert found.ignore_index == 255
    assert table is not None and table[:5].tolist() == [0, 1, 2, 3, 255]
    back = map_classes(found, {"auto": "car"}, "m")
    assert class_id_table(back, None) is not None  # or 4 would no longer be ignored


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from([*NAMES, "new", "other", None])), st.integers(0, 2**32))
def test_the_histogram_is_that_of_the_mapped_masks(class_map: dict[str, str | None], seed: int) -> None:
    mask = np.random.default_rng(seed).choice([0, 1, 2, 3, 9], 500).astype(np.uint8)
    split = replace(
        packed(9).splits["train"],
        class_pixels=tuple(int((mask == i).sum()) for i in range(4)),
        ignored_pixels=int((mask == 9).sum()),
    )
    before = replace(packed(9), splits={"train": split})
    named = [None if i == 9 else class_map.get(NAMES[i], NAMES[i]) for i in mask]
    if not any(class_map.get(name, name) for name in NAMES):
        return
    found = map_classes(before, class_map, "m")
    table = class_id_table(found, None)
    ids = mask if table is None else table[mask]
    assert [None if i == found.ignore_index else found.class_names[i] for i in ids] == named
    assert found.splits["train"].class_pixels == tuple(named.count(name) for name in found.class_names)
    assert found.splits["train"].ignored_pixels == named.count(None)


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ({"trcuk": "car"}, "no class 'trcuk'; did you mean 'truck'"),
        ({"zebra": "car"}, "there are road, car, truck, sky"),
        (dict.fromkeys(NAMES), "ignores every class"),
        ({"car": ""}, "must have a name"),
    ],
)
def test_what_cannot_be_mapped_is_named(class_map: dict[str, str | None], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        map_classes(packed(), class_map, "data.class_map")


def test_classes_are_put_into_another_order_with_more_of_them() -> None:
    names, palette = ("sky", "sea", "truck", "car", "road"), ((0, 0, 0),) * 5
    found = align_classes(packed(), names, palette, None, 255)
    assert found.splits["train"].class_pixels == (40, 0, 30, 20, 10)
    table = class_id_table(found, None)
    assert table is not None and table[:4].tolist() == [4, 3, 2, 0]
    assert unknown_classes(packed(), ("sky", "car")) == ["road", "truck"]


def test_a_models_own_ignore_index_is_kept() -> None:
    found = align_classes(packed(), NAMES, COLORS, None, 9)
    table = class_id_table(found, None)
    assert found.ignore_index == 9
    assert table is not None and table[[0, 1, 2, 3, 255]].tolist() == [0, 1, 2, 3, 9]


def test_one_change_after_another_is_both() -> None:
    merged = map_classes(packed(), {"truck": "car", "sky": None}, "m")
    table = class_id_table(align_classes(merged, ("car", "road"), merged.palette, None, 255), None)
    assert table is not None and table[:4].tolist() == [1, 0, 0, 255]


def annotations(*class_ids: int) -> ImageAnnotations:
    objects = tuple(
        ObjectAnnotation(id=i, class_id=c, crowd=False, area=4.0, bbox=(0, 0, 2, 2), rle="", pixels=4, layer=0)
        for i, c in enumerate(class_ids)
    )
    return ImageAnnotations(image_id=1, file_name="a", height=4, width=4, objects=objects)


def test_objects_of_an_ignored_class_become_crowds_of_every_class() -> None:
    table = class_id_table(map_classes(packed(task="instance"), {"car": None}, "m"), None)
    assert table is not None
    found = mapped_annotations(annotations(0, 1, 3), table, 3).objects
    assert [(o.class_id, o.crowd) for o in found] == [(0, False), (EVERY_CLASS, True), (2, False)]


def test_an_object_of_a_class_that_cannot_be_is_undecodable() -> None:
    with pytest.raises(UndecodableError, match="object 0 has class 256"):
        mapped_annotations(annotations(256), np.zeros(256, np.uint8), 1)


# Against data that was packed with the other classes


@pytest.fixture(scope="module")
def packed_otherwise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("other")
    pack_other(out, NEW_NAMES, SHAPES)
    return out


@pytest.fixture(scope="module")
def objects_packed_otherwise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("other_objects")
    pack_other_objects(out, ("round", "square", "triangle", "cross"), {"disk": "round", "ring": "round"})
    return out


def assert_equal_batches(expected: list[Batch], found: list[Batch]) -> None:
    assert [batch.keys for batch in found] == [batch.keys for batch in expected]
    assert [batch.digest for batch in found] == [batch.digest for batch in expected]
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)
        assert a.targets.dtype == b.targets.dtype
        for x, y in zip(a.objects, b.objects, strict=True):
            for name in ("boxes", "labels", "ignored", "layers", "ids"):
                assert torch.equal(getattr(x, name), getattr(y, name)), name
        assert a.annotations == b.annotations


@pytest.fixture(params=["torch", "dali", "placed_by_dali"])
def cfg(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Config:
    if request.param == "torch":
        return config(AUGMENTATIONS["all"])
    module = pytest.importorskip("dist_seg.data.loading.dali")
    if request.param == "placed_by_dali":
        monkeypatch.setattr(module, "_places_by_itself", lambda device: True)
    return config(AUGMENTATIONS["all"], loader="dali")


def test_batches_are_those_of_the_data_packed_so(synthetic_shards: Path, packed_otherwise: Path, cfg: Config) -> None:
    expected, found = opened(packed_otherwise), opened(synthetic_shards, class_map=SHAPES)
    for name in ("train", "val"):
        assert found.manifest.split(name).class_pixels == expected.manifest.split(name).class_pixels
        assert found.manifest.split(name).ignored_pixels == expected.manifest.split(name).ignored_pixels
    assert found.manifest.palette == expected.manifest.palette
    units = [(0, 0), (1, 0), (7, 0)]
    assert_equal_batches(train(expected, cfg, units), train(found, cfg, units))
    whole = [batch for batches in evaluate(expected, cfg, indices=[0, 3]) for batch in batches]
    assert_equal_batches(whole, [batch for batches in evaluate(found, cfg, indices=[0, 3]) for batch in batches])


def test_objects_are_those_of_the_data_packed_so(
    instance_shards: Path, objects_packed_otherwise: Path, cfg: Config
) -> None:
    expected = opened(objects_packed_otherwise)
    found = opened(instance_shards, class_map={"disk": "round", "ring": "round"})
    assert found.manifest.category_ids == expected.manifest.category_ids
    assert found.manifest.split("train").objects == expected.manifest.split("train").objects
    units = [(0, 0), (3, 0)]
    assert_equal_batches(train(expected, cfg, units), train(found, cfg, units))
    whole = [batch for batches in evaluate(expected, cfg, indices=[1]) for batch in batches]
    assert_equal_batches(whole, [batch for batches in evaluate(found, cfg, indices=[1]) for batch in batches])


def test_ignored_objects_are_neither_trained_nor_background(instance_shards: Path) -> None:
    cfg = config(AUGMENTATIONS["crop"])
    plain, found = opened(instance_shards), opened(instance_shards, class_map={"square": None})
    squares = plain.manifest.class_names.index("square")
    assert any((b.objects[0].labels == squares).any() for b in train(plain, cfg, [(0, 0), (1, 0)]))
    for a, b in zip(train(plain, cfg, [(0, 0), (1, 0)]), train(found, cfg, [(0, 0), (1, 0)]), strict=True):
        for x, y in zip(a.objects, b.objects, strict=True):
            assert torch.equal(x.boxes, y.boxes)
            assert torch.equal(y.ignored, x.ignored | (x.labels == squares))
            kept = x.labels != squares
            assert torch.equal(y.labels[kept], x.labels[kept] - (x.labels[kept] > squares).long())


MERGED = {"class1": "class0", "class5": None, "class7": "class0", "class10": "last"}
KEPT = [i for i in range(NUM_CLASSES) if i not in (0, 1, 5, 7)]
MERGED_NAMES = ("class0", *("last" if i == 10 else f"class{i}" for i in KEPT))


def labelled(out: Path, *, merged: bool) -> PackedData:
    """Layers of labels; merged: as `MERGED` makes them, pixel by pixel from the words of what it means."""
    samples = []
    for seed in range(8):
        sample, layers = scene_sample(seed, form="png"), label_layers(seed, 120, 150)
        if merged:
            parts = layers[[0, 1, 7]]
            union = np.where((parts == 1).any(0), 1, np.where((parts == 255).any(0), 255, 0)).astype(np.uint8)
            layers = np.concatenate([union[None], layers[KEPT]])
        samples.append(replace(sample, target=encode_labels(layers), target_suffix="multi.png"))
    packed = write_dataset(out, samples)
    if not merged:
        return packed
    split = replace(packed.manifest.split("train"), class_pixels=(1,) * len(MERGED_NAMES))
    names = {"class_names": MERGED_NAMES, "palette": ((0, 0, 0),) * len(MERGED_NAMES)}
    return PackedData(packed.storage, replace(packed.manifest, **names, splits={"train": split}))


def test_labels_are_merged_by_pixel_and_left_out(tmp_path: Path, cfg: Config) -> None:
    expected, raw = labelled(tmp_path / "merged", merged=True), labelled(tmp_path / "raw", merged=False)
    found = PackedData(raw.storage, map_classes(raw.view, MERGED, "m"))
    assert found.manifest.class_names == MERGED_NAMES
    assert_equal_batches(train(expected, cfg, [(0, 0), (1, 0)]), train(found, cfg, [(0, 0), (1, 0)]))
    whole = [batch for batches in evaluate(expected, cfg, indices=[1]) for batch in batches]
    assert_equal_batches(whole, [batch for batches in evaluate(found, cfg, indices=[1]) for batch in batches])


def test_a_label_that_the_data_lacks_is_unknown(tmp_path: Path) -> None:
    raw = labelled(tmp_path / "raw", merged=False)
    names = ("more", *raw.manifest.class_names)
    found = PackedData(raw.storage, align_classes(raw.view, names, ((0, 0, 0),) * len(names), None, 255))
    before, after = (evaluate(data, config(), indices=[0])[0][0] for data in (raw, found))
    assert torch.equal(after.targets[:, 1:], before.targets)
    assert (after.targets[:, 0] == 255).all()


def test_a_dataset_in_a_notebook_has_the_classes_too(synthetic_shards: Path, packed_otherwise: Path) -> None:
    expected = SegmentationDataset(str(packed_otherwise))
    found = SegmentationDataset(str(synthetic_shards), data=DataConfig(class_map=SHAPES))
    assert found.class_names == NEW_NAMES
    assert torch.equal(found[5]["mask"], expected[5]["mask"])
