"""Both loaders make the same batches of instances."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks

from dist_seg.config.schema import AugmentConfig, Config
from dist_seg.data.codecs.annotations import ObjectAnnotation, parse_annotations
from dist_seg.data.codecs.object_layers import encode_instances
from dist_seg.data.loading.augment import draw, input_factor
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.geometry import place_mask
from dist_seg.data.loading.loader import train_batches
from dist_seg.data.loading.torch_loader import SegmentationDataset
from dist_seg.data.shards.writer import EncodedMembers
from dist_seg.runtime.rng import generator
from tests.instance_cases import LARGE_SCALE_JITTER, assert_same_objects, discs_sample, real_samples
from tests.loader_cases import (
    AUGMENTATIONS,
    CPU,
    PackedData,
    assert_same,
    config,
    encode,
    evaluate,
    train,
    write_dataset,
)

SIZES = ((120, 150), (97, 131), (64, 200), (150, 90))
FORMS = ("jpeg420", "jpeg444", "png", "grey_png")
UNITS = [(0, 0), (1, 0)]


@pytest.fixture(scope="module")
def real_members(shared_data: Path) -> list[EncodedMembers]:
    return real_samples(shared_data)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, real_members: list[EncodedMembers]) -> PackedData:
    return write_dataset(tmp_path_factory.mktemp("real"), real_members)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    """Samples with one, two and three layers, in every format and size, some with a crowd."""
    samples = [
        discs_sample(10 * i + j, height=height, width=width, depth=1 + (i + j) % 3, crowd=i == j, form=form)
        for i, form in enumerate(FORMS)
        for j, (height, width) in enumerate(SIZES)
    ]
    return write_dataset(tmp_path_factory.mktemp("discs"), samples)


@pytest.fixture(params=["torch", "dali"])
def loader(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali")
    return str(request.param)


@pytest.fixture(params=["placed_by_torch", "placed_by_dali"])
def dali(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The DALI loader with its CPU graph, and with the graph for GPUs."""
    module = pytest.importorskip("dist_seg.data.loading.dali")
    if request.param == "placed_by_dali":
        monkeypatch.setattr(module, "_places_by_itself", lambda device: True)


def side_by_side(data: PackedData, cfg: Config, units: list[tuple[int, int]], *, batch: int = 4) -> list[Batch]:
    """The reference batches, to compare DALI's with."""
    sizes = {"global_batch": batch, "micro_batch": batch}
    reference = train(data, cfg, units, **sizes)
    by_dali = train(data, replace(cfg, data=replace(cfg.data, loader="dali")), units, **sizes)
    assert_same(reference, by_dali, cfg)
    assert_same_objects(reference, by_dali)
    return reference


class TestSideBySide:
    """The torch loader is the reference."""

    @pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
    def test_dali_equals_torch_on_real_images(self, real: PackedData, augment: AugmentConfig, dali: None) -> None:
        side_by_side(real, config(augment), UNITS, batch=3)

    @pytest.mark.parametrize("name", ["plain", "rotated"])
    def test_dali_equals_torch_under_large_scale_jitter(self, real: PackedData, name: str, dali: None) -> None:
        augment = LARGE_SCALE_JITTER if name == "plain" else replace(LARGE_SCALE_JITTER, rotate_deg=15.0)
        side_by_side(real, config(augment, input_side=160), [(0, 0), (1, 0), (2, 0), (3, 0)], batch=3)

    @pytest.mark.parametrize("name", ["all", "all_but_rotation", "crop"])
    def test_dali_equals_torch_on_every_form_and_size(self, discs: PackedData, name: str, dali: None) -> None:
        side_by_side(discs, config(AUGMENTATIONS[name]), [(step, 0) for step in range(4)])

    @pytest.mark.parametrize("data", [{}, {"input_scale": 0.5}, {"input_side": 200}], ids=["whole", "half", "side"])
    def test_evaluation_equals_torch(self, discs: PackedData, data: dict[str, float], dali: None) -> None:
        reference = evaluate(discs, config(**data))
        for a, b in zip(reference, evaluate(discs, config(loader="dali", **data)), strict=True):
            assert_same(a, b, config())
            assert [batch.annotations for batch in a] == [batch.annotations for batch in b]

    def test_ids_of_more_than_eight_bits_come_through_dali(self, real: PackedData, dali: None) -> None:
        whole = AugmentConfig(crop_height=520, crop_width=696, scale_min=1.0, scale_max=1.0)
        reference = side_by_side(real, config(whole), UNITS, batch=3)
        assert max(int(batch.targets.max()) for batch in reference) == 369


class TestTargets:
    def test_samples_of_one_two_and_three_layers_share_a_batch(self, tmp_path: Path, loader: str) -> None:
        data = write_dataset(tmp_path, [discs_sample(i, depth=i + 1) for i in range(3)])
        (batch,) = train(data, config(_whole(), loader=loader), [(0, 0)], global_batch=3, micro_batch=3)
        assert (batch.targets.shape, batch.targets.dtype) == ((3, 3, 120, 150), torch.int32)
        for key, target, objects in zip(batch.keys, batch.targets, batch.objects, strict=True):
            depth = 1 + int(key[-4:])
            assert [bool(layer.any()) for layer in target] == [layer < depth for layer in range(3)]
            assert len(objects.ids) == 6 * depth

    def test_the_border_is_no_object(self, discs: PackedData, loader: str) -> None:
        (batch,) = train(discs, config(AUGMENTATIONS["pad"], loader=loader), [(0, 0)])
        corners = batch.targets[..., :: batch.targets.shape[2] - 1, :: batch.targets.shape[3] - 1]
        assert not corners.any()

    def test_worker_processes_give_what_this_process_gives(self, discs: PackedData) -> None:
        cfg = config(AUGMENTATIONS["all"])
        plan = discs.train_plan(seed=cfg.train.seed)
        by_workers = train_batches(cfg, discs.view_with(num_threads=2), plan, UNITS, CPU)
        for a, b in zip(train(discs, cfg, UNITS), by_workers, strict=True):
            assert torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)
            assert_same_objects([a], [b])

    def test_an_item_of_the_map_style_data_set_holds_the_layers(self, instance_shards: Path) -> None:
        mask = SegmentationDataset(str(instance_shards), split="val")[0]["mask"]
        assert (mask.shape, mask.dtype) == ((1, 96, 128), torch.int64)
        assert 2 <= int(mask.max()) <= 5


class TestObjects:
    @pytest.mark.parametrize("name", ["crop", "all", "pad"])
    def test_they_are_what_each_exact_mask_becomes_alone(
        self, real: PackedData, real_members: list[EncodedMembers], name: str
    ) -> None:
        """The oracle moves every object's own mask, decoded by pycocotools, and never sees the layers."""
        augment = AUGMENTATIONS[name]
        known = {members.key: members for members in real_members}
        batches = train(real, config(augment), UNITS, global_batch=3, micro_batch=3)
        assert sum(len(objects.ids) for batch in batches for objects in batch.objects) > 30
        for key, objects in ((k, o) for batch in batches for k, o in zip(batch.keys, batch.objects, strict=True)):
            rows = zip(objects.ids.tolist(), objects.boxes.tolist(), objects.ignored.tolist(), strict=True)
            found = {number: (box, ignored) for number, box, ignored in rows}
            expected = _objects_alone(known[key], augment)
            assert {number: found.get(number) for number in expected} == expected

    def test_a_larger_min_visible_ignores_what_the_crop_has_cut(self, tmp_path: Path, loader: str) -> None:
        data = write_dataset(tmp_path, [discs_sample(i) for i in range(4)])
        cut = replace(_whole(), crop_height=60, crop_width=75)
        (none,) = train(data, config(replace(cut, min_visible=0.0), loader=loader), [(0, 0)])
        (all_cut,) = train(data, config(replace(cut, min_visible=0.999), loader=loader), [(0, 0)])
        assert not torch.cat([objects.ignored for objects in none.objects]).any()
        for target, objects in zip(all_cut.targets, all_cut.objects, strict=True):
            pixels = torch.bincount(target.flatten(), minlength=7)[objects.ids]
            assert objects.ignored.tolist() == (pixels < DISC_PIXELS[objects.ids - 1]).tolist()

    def test_crowds_are_ignored_however_much_of_them_is_there(self, tmp_path: Path, loader: str) -> None:
        data = write_dataset(tmp_path, [discs_sample(i, crowd=True) for i in range(4)])
        (batch,) = train(data, config(replace(_whole(), min_visible=0.0), loader=loader), [(0, 0)])
        for objects in batch.objects:
            assert objects.ids[objects.ignored].tolist() == [6]

    def test_an_image_without_objects_has_none(self, tmp_path: Path, loader: str) -> None:
        empty = encode_instances([], height=120, width=150, num_classes=5, image_id=1, file_name="empty.png")
        assert empty.annotations is not None
        blank = {"target": empty.data, "annotations": empty.annotations.to_json()}
        data = write_dataset(tmp_path, [replace(discs_sample(i), **blank) for i in range(4)])
        (batch,) = train(data, config(loader=loader), [(0, 0)])
        assert [objects.boxes.shape for objects in batch.objects] == [(0, 4)] * 4
        assert not batch.targets.any()


class TestEvaluation:
    def test_the_exact_truth_comes_with_every_image_at_its_own_size(self, discs: PackedData, loader: str) -> None:
        for group in evaluate(discs, config(loader=loader, input_side=200)):
            for batch in group:
                assert batch.objects == ()
                assert max(batch.images.shape[2:]) == 200
                for annotations in batch.annotations:
                    assert (annotations.height, annotations.width) == batch.targets.shape[2:]


class TestBadSamples:
    @pytest.fixture(params=["unknown_id", "eight_bits", "no_json", "other_size"])
    def damaged(self, request: pytest.FixtureRequest, tmp_path: Path) -> PackedData:
        """The third sample of eight is bad."""
        samples = [discs_sample(i) for i in range(8)]
        bad, crowded = samples[2], discs_sample(2, depth=2)
        match request.param:
            case "unknown_id":
                bad = replace(bad, target=crowded.target)
            case "eight_bits":
                bad = replace(bad, target=encode(np.ones((120, 150), np.uint8), "PNG"))
            case "no_json":
                bad = replace(bad, annotations=b"{")
            case _:
                bad = replace(bad, annotations=discs_sample(2, height=110).annotations)
        samples[2] = replace(bad, key="bad")
        return write_dataset(tmp_path, samples)

    def test_training_replaces_them_and_names_them(self, damaged: PackedData, loader: str) -> None:
        batches = train(damaged, config(loader=loader), UNITS)
        assert [bad.key for batch in batches for bad in batch.bad] == ["bad"]
        assert all(len(batch.keys) == len(batch.objects) == 4 and "bad" not in batch.keys for batch in batches)

    def test_an_unknown_id_counts_wherever_the_crop_lies(self, tmp_path: Path, dali: None) -> None:
        samples = [discs_sample(i) for i in range(8)]
        layers = np.zeros((120, 150), np.uint16)
        layers[0, 0] = 7  # of six objects
        samples[2] = replace(samples[2], key="bad", target=encode(layers, "PNG"))
        data = write_dataset(tmp_path, samples)
        small = replace(AUGMENTATIONS["crop"], crop_height=16, crop_width=16)
        for batches in (train(data, config(small, loader=name), UNITS) for name in ("torch", "dali")):
            assert [bad.key for batch in batches for bad in batch.bad] == ["bad"]

    def test_evaluation_leaves_them_out_and_names_them(self, damaged: PackedData, loader: str) -> None:
        batches = [batch for group in evaluate(damaged, config(loader=loader)) for batch in group]
        assert [bad.key for batch in batches for bad in batch.bad] == ["bad"]
        assert sum(len(batch.annotations) for batch in batches) == 7


def _whole() -> AugmentConfig:
    """Settings that do not change the discs."""
    return replace(AUGMENTATIONS["crop"], crop_height=120, crop_width=150)


def _annotations(members: EncodedMembers) -> tuple[ObjectAnnotation, ...]:
    assert members.annotations is not None
    return parse_annotations(members.annotations).objects


DISC_PIXELS = torch.tensor([o.area for o in _annotations(discs_sample(0))])


def _objects_alone(members: EncodedMembers, augment: AugmentConfig) -> dict[int, tuple[list[float], bool]]:
    """Box and flag by id for the visible objects. Objects without all of their pixels are left out."""
    assert augment.crop_height is not None and augment.crop_width is not None
    cfg = config(augment)
    transform = draw(
        augment,
        input_scale=input_factor(cfg.data, members.height, members.width),
        height=members.height,
        width=members.width,
        crop=(augment.crop_height, augment.crop_width),
        rng=generator("augment", cfg.train.seed, 0, members.key),
    )
    y, x, height, width = transform.roi
    annotations = _annotations(members)
    size = [members.height, members.width]
    masks_HWN = coco_masks.decode([{"size": size, "counts": annotation.rle} for annotation in annotations])
    expected = {}
    for number, annotation in enumerate(annotations, start=1):
        mask = np.ascontiguousarray(masks_HWN[y : y + height, x : x + width, number - 1])
        placed = place_mask(mask, transform, 0).bool()
        if annotation.hidden or not placed.any():
            continue
        rows, columns = placed.any(1).nonzero(), placed.any(0).nonzero()
        box = [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
        visible = float(placed.sum()) / (annotation.area * transform.area_scale)
        expected[number] = (box, annotation.crowd or visible < augment.min_visible)
    return expected
