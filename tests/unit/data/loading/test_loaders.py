"""Both loaders make the same batches."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from dist_seg.config.schema import AugmentConfig, Config, DataConfig
from dist_seg.data.loading.loader import choose_loader, train_batches
from dist_seg.data.loading.torch_loader import SegmentationDataset
from dist_seg.errors import ConfigError, DataError, UserError
from tests.loader_cases import (
    AUGMENTATIONS,
    CPU,
    NUM_CLASSES,
    PackedData,
    assert_same,
    camvid_samples,
    config,
    evaluate,
    scene_sample,
    train,
    write_dataset,
)

FORMS = ("jpeg420", "jpeg444", "progressive", "grey_jpeg", "png", "grey_png")
SIZES = ((120, 150), (97, 131), (64, 200), (33, 40))


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> PackedData:
    return write_dataset(tmp_path_factory.mktemp("camvid"), camvid_samples(shared_data, 8))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    """Pictures in every format and size."""
    samples = [
        scene_sample(10 * i + j, form=form, height=height, width=width)
        for i, form in enumerate(FORMS)
        for j, (height, width) in enumerate(SIZES)
    ]
    return write_dataset(tmp_path_factory.mktemp("scenes"), samples)


class TestSideBySide:
    """The torch loader is the reference."""

    @pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
    def test_dali_equals_torch_on_real_pictures(self, camvid: PackedData, augment: AugmentConfig) -> None:
        pytest.importorskip("nvidia.dali")
        units = [(0, 0), (1, 0)]
        reference = train(camvid, config(augment), units)
        assert_same(reference, train(camvid, config(augment, loader="dali"), units), config())

    @pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
    def test_dalis_own_operators_equal_torch_on_real_pictures(
        self, camvid: PackedData, augment: AugmentConfig, dali_places: None
    ) -> None:
        units = [(0, 0), (1, 0)]
        reference = train(camvid, config(augment), units)
        assert_same(reference, train(camvid, config(augment, loader="dali"), units), config())

    @pytest.mark.parametrize("name", ["all", "all_but_rotation"])
    def test_dali_equals_torch_on_real_pictures_that_are_enlarged_first(self, camvid: PackedData, name: str) -> None:
        pytest.importorskip("nvidia.dali")
        units = [(0, 0), (1, 0)]
        reference = train(camvid, config(AUGMENTATIONS[name], input_scale=1.5), units)
        by_dali = train(camvid, config(AUGMENTATIONS[name], input_scale=1.5, loader="dali"), units)
        assert_same(reference, by_dali, config())

    @pytest.mark.parametrize("name", ["all", "all_but_rotation"])
    def test_dalis_own_operators_equal_torch_on_real_pictures_that_are_enlarged_first(
        self, camvid: PackedData, name: str, dali_places: None
    ) -> None:
        units = [(0, 0), (1, 0)]
        reference = train(camvid, config(AUGMENTATIONS[name], input_scale=1.5), units)
        by_dali = train(camvid, config(AUGMENTATIONS[name], input_scale=1.5, loader="dali"), units)
        assert_same(reference, by_dali, config())

    @pytest.mark.parametrize("name", ["all", "all_but_rotation", "crop"])
    def test_dali_equals_torch_on_every_form_and_size(self, scenes: PackedData, name: str) -> None:
        pytest.importorskip("nvidia.dali")
        units = [(step, 0) for step in range(6)]
        reference = train(scenes, config(AUGMENTATIONS[name]), units)
        assert_same(reference, train(scenes, config(AUGMENTATIONS[name], loader="dali"), units), config())

    @pytest.mark.parametrize("name", ["all", "all_but_rotation", "crop"])
    def test_dalis_own_operators_equal_torch_on_every_form_and_size(
        self, scenes: PackedData, name: str, dali_places: None
    ) -> None:
        units = [(step, 0) for step in range(6)]
        reference = train(scenes, config(AUGMENTATIONS[name]), units)
        assert_same(reference, train(scenes, config(AUGMENTATIONS[name], loader="dali"), units), config())

    @pytest.mark.parametrize("input_scale", [None, 0.5, 1.7])
    def test_evaluation_equals_torch(self, scenes: PackedData, input_scale: float | None) -> None:
        pytest.importorskip("nvidia.dali")
        reference = evaluate(scenes, config(input_scale=input_scale))
        other = evaluate(scenes, config(loader="dali", input_scale=input_scale))
        for a, b in zip(reference, other, strict=True):
            assert_same(a, b, config())

    @pytest.mark.parametrize("input_scale", [None, 0.5, 1.7])
    def test_evaluation_by_dalis_own_operators_equals_torch(
        self, scenes: PackedData, input_scale: float | None, dali_places: None
    ) -> None:
        reference = evaluate(scenes, config(input_scale=input_scale))
        other = evaluate(scenes, config(loader="dali", input_scale=input_scale))
        for a, b in zip(reference, other, strict=True):
            assert_same(a, b, config())

    @pytest.fixture
    def dali_places(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The graph for GPUs, on the CPU."""
        dali = pytest.importorskip("dist_seg.data.loading.dali")
        monkeypatch.setattr(dali, "_places_by_itself", lambda device: True)


class TestTrainBatches:
    @pytest.fixture(params=["torch", "dali"])
    def loader(self, request: pytest.FixtureRequest) -> str:
        if request.param == "dali":
            pytest.importorskip("nvidia.dali")
        return str(request.param)

    def test_images_are_normalised_and_targets_are_class_ids(self, scenes: PackedData, loader: str) -> None:
        (batch,) = train(scenes, config(AUGMENTATIONS["downscale"], loader=loader), [(0, 0)])
        assert (batch.images.shape, batch.images.dtype) == ((4, 3, 96, 128), torch.float32)
        assert (batch.targets.shape, batch.targets.dtype) == ((4, 96, 128), torch.int64)
        assert set(batch.targets.unique().tolist()) <= {*range(NUM_CLASSES), 255}

    def test_padding_is_the_ignore_index_and_about_zero(self, scenes: PackedData, loader: str) -> None:
        (batch,) = train(scenes, config(AUGMENTATIONS["downscale"], loader=loader), [(0, 0)])
        padding = batch.targets == 255
        assert padding.any()
        assert batch.images.permute(0, 2, 3, 1)[padding].abs().max() < 0.01

    @pytest.mark.parametrize(
        ("normalize", "low", "high"), [("unit", 0.0, 1.0), ("symmetric", -1.0, 1.0), ("mean_std", -2.2, 2.7)]
    )
    def test_normalize_gives_its_range(
        self, scenes: PackedData, loader: str, normalize: str, low: float, high: float
    ) -> None:
        (batch,) = train(scenes, config(AUGMENTATIONS["crop"], loader=loader, normalize=normalize), [(0, 0)])
        assert low <= batch.images.min() < batch.images.max() <= high
        assert batch.images.max() - batch.images.min() > 0.5 * (high - low)

    def test_a_batch_does_not_depend_on_what_came_before(self, scenes: PackedData, loader: str) -> None:
        cfg = config(AUGMENTATIONS["all"], loader=loader)
        units = [(step, lane) for step in range(8) for lane in range(2)]
        whole = train(scenes, cfg, units, micro_batch=2)
        resumed = train(scenes, cfg, units[9:], micro_batch=2)
        for a, b in zip(whole[9:], resumed, strict=True):
            assert a.keys == b.keys and a.digest == b.digest
            assert torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)

    def test_an_epoch_holds_every_sample_once(self, scenes: PackedData, loader: str) -> None:
        batches = train(scenes, config(loader=loader), [(step, 0) for step in range(6)])
        assert len({key for batch in batches for key in batch.keys}) == 24

    def test_the_next_epoch_draws_anew(self, scenes: PackedData, loader: str) -> None:
        plan = scenes.train_plan(global_batch=24, micro_batch=24)
        first, second = (
            next(train_batches(cfg, scenes.view, plan, [(step, 0)], CPU))
            for step, cfg in ((0, config(loader=loader)), (1, config(loader=loader)))
        )
        assert set(first.keys) == set(second.keys)
        assert first.digest != second.digest

    def test_closing_early_ends_the_background(self, scenes: PackedData, loader: str) -> None:
        plan = scenes.train_plan()
        units = ((step, 0) for step in range(10**6))
        batches = train_batches(config(loader=loader), scenes.view_with(num_threads=1), plan, units, CPU)
        next(batches)
        batches.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "loader"]

    def test_a_missing_shard_is_named(self, tmp_path: Path, loader: str) -> None:
        data = write_dataset(tmp_path, [scene_sample(i) for i in range(8)])
        (tmp_path / "train-000001.tar").unlink()
        with pytest.raises(DataError, match=r"train-000001\.tar") as raised:
            train(data, config(loader=loader), [(step, 0) for step in range(2)])
        assert "Traceback" not in str(raised.value)

    def test_torchs_generator_is_left_alone(self, scenes: PackedData, loader: str) -> None:
        torch.manual_seed(7)
        before = torch.get_rng_state()
        train(scenes, config(AUGMENTATIONS["all"], loader=loader), [(0, 0)])
        assert torch.equal(before, torch.get_rng_state())

    def test_no_crop_size_is_an_error_that_names_the_fields(self, scenes: PackedData, loader: str) -> None:
        with pytest.raises(ConfigError, match=r"augment\.crop_height"):
            train(scenes, config(AugmentConfig(), loader=loader), [(0, 0)])


class TestDaliPipeline:
    @pytest.mark.parametrize(("num_threads", "prefetch"), [(1, 1), (2, 3)])
    def test_pixels_do_not_depend_on_threads_or_prefetch(
        self, scenes: PackedData, num_threads: int, prefetch: int
    ) -> None:
        pytest.importorskip("nvidia.dali")
        units = [(step, 0) for step in range(6)]
        augment = AUGMENTATIONS["all"]
        usual = train(scenes, config(augment, loader="dali"), units)
        other = train(scenes, config(augment, loader="dali", prefetch=prefetch), units, num_threads=num_threads)
        for a, b in zip(usual, other, strict=True):
            assert torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)

    def test_what_dali_alone_cannot_decode_is_decoded_by_pil(
        self, scenes: PackedData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        dali = pytest.importorskip("dist_seg.data.loading.dali")

        def refuse(graph: object, samples: object) -> None:
            raise dali._DecodeError("refused")

        monkeypatch.setattr(dali.DaliGraph, "take", refuse)
        (batch,) = train(scenes, config(AUGMENTATIONS["all"], loader="dali"), [(0, 0)])
        (reference,) = train(scenes, config(AUGMENTATIONS["all"]), [(0, 0)])
        assert torch.equal(batch.images, reference.images) and batch.bad == ()
        assert "DALI cannot decode what PIL can" in caplog.text

    def test_torchs_threads_are_left_alone(self, scenes: PackedData) -> None:
        pytest.importorskip("nvidia.dali")
        before = torch.get_num_threads()
        train(scenes, config(loader="dali"), [(0, 0)])
        assert torch.get_num_threads() == before

    def test_a_process_that_ends_without_closing_ends_in_order(self, scenes: PackedData) -> None:
        pytest.importorskip("nvidia.dali")
        script = (
            "import sys; from tests.loader_cases import *\n"
            "from dist_seg.data.shards.manifest_parsing import load_manifest\n"
            f"storage = open_storage({scenes.storage.url!r}); data = PackedData(storage, load_manifest(storage))\n"
            "units = ((step, 0) for step in range(10**6)); cfg = config(loader='dali')\n"
            "batches = train_batches(cfg, data.view_with(num_threads=2), data.train_plan(), units, CPU)\n"
            "next(batches); sys.exit(5)"
        )
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert (ended.returncode, "terminate" in ended.stderr) == (5, False), ended.stderr


class TestTorchWorkers:
    def test_worker_processes_give_what_this_process_gives(self, scenes: PackedData) -> None:
        cfg = config(AUGMENTATIONS["all"])
        units = [(step, 0) for step in range(5)]
        plan = scenes.train_plan(seed=cfg.train.seed)
        by_workers = list(train_batches(cfg, scenes.view_with(num_threads=2), plan, units, CPU))
        for a, b in zip(train(scenes, cfg, units), by_workers, strict=True):
            assert a.keys == b.keys and a.digest == b.digest
            assert torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)

    def test_an_error_in_a_worker_keeps_its_kind_and_words(self, tmp_path: Path) -> None:
        data = write_dataset(tmp_path, [scene_sample(i) for i in range(4)])
        (tmp_path / "train-000000.tar").unlink()
        batches = train_batches(config(), data.view_with(num_threads=1), data.train_plan(), [(0, 0)], CPU)
        with pytest.raises(DataError, match=r"train-000000\.tar") as raised:
            next(batches)
        assert "Traceback" not in str(raised.value)


class TestEvalBatches:
    @pytest.mark.parametrize("loader", ["torch", "dali"])
    def test_every_sample_comes_once_at_its_own_size(self, scenes: PackedData, loader: str) -> None:
        if loader == "dali":
            pytest.importorskip("nvidia.dali")
        batches = [batch for group in evaluate(scenes, config(loader=loader, input_scale=0.5)) for batch in group]
        assert len([key for batch in batches for key in batch.keys]) == 24
        for batch in batches:
            height, width = batch.targets.shape[1:]
            assert (height, width) in SIZES
            assert batch.images.shape[2:] == (round(height / 2), round(width / 2))

    def test_batches_are_found_by_number(self, scenes: PackedData) -> None:
        (whole, some) = evaluate(scenes, config()), evaluate(scenes, config(), indices=[5, 2])
        assert [batch.keys for batch in some[0]] == [batch.keys for batch in whole[5]]
        assert [batch.keys for batch in some[1]] == [batch.keys for batch in whole[2]]

    def test_no_batches_are_no_error(self, scenes: PackedData) -> None:
        assert evaluate(scenes, config(), indices=[]) == []


class TestChooseLoader:
    @pytest.fixture
    def no_dali(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "nvidia.dali", None)
        monkeypatch.delitem(sys.modules, "dist_seg.data.loading.dali", raising=False)

    def test_auto_takes_dali_where_it_is(self) -> None:
        pytest.importorskip("nvidia.dali")
        assert choose_loader(Config()) == "dali"

    def test_auto_takes_torch_elsewhere_and_says_so(self, no_dali: None, caplog: pytest.LogCaptureFixture) -> None:
        assert choose_loader(Config()) == "torch"
        assert "auto uses torch" in caplog.text and "dali-cuda13" in caplog.text

    def test_dali_where_it_is_not_is_an_error_that_names_the_extras(self, no_dali: None) -> None:
        with pytest.raises(UserError, match=r"dali-cuda13.*dali-cuda12"):
            choose_loader(Config(data=DataConfig(loader="dali")))

    def test_training_goes_on_without_dali(self, no_dali: None, scenes: PackedData) -> None:
        (batch,) = train(scenes, config(loader="auto"), [(0, 0)], num_threads=0)
        assert len(batch.keys) == 4


class TestSegmentationDataset:
    def test_an_item_is_image_mask_and_key(self, synthetic_shards: Path) -> None:
        dataset = SegmentationDataset(str(synthetic_shards), split="train")
        sample = dataset[3]
        assert len(dataset) == 24
        assert (sample["image"].shape, sample["image"].dtype) == ((3, 96, 128), torch.float32)
        assert (sample["mask"].shape, sample["mask"].dtype) == ((96, 128), torch.int64)
        assert isinstance(sample["key"], str)

    def test_indices_reach_every_sample_and_no_further(self, synthetic_shards: Path) -> None:
        dataset = SegmentationDataset(str(synthetic_shards), split="val")
        assert len({dataset[i]["key"] for i in range(8)}) == 8
        assert dataset[-1]["key"] == dataset[7]["key"]
        with pytest.raises(IndexError, match="sample 8 of 8"):
            dataset[8]

    def test_the_same_seed_and_epoch_draw_the_same(self, synthetic_shards: Path) -> None:
        augment = AugmentConfig(crop_height=48, crop_width=64, brightness=0.3)
        first, again = (SegmentationDataset(str(synthetic_shards), augment=augment, epoch=1)[5] for _ in range(2))
        other = SegmentationDataset(str(synthetic_shards), augment=augment, epoch=2)[5]
        assert first["image"].shape == (3, 48, 64)
        assert torch.equal(first["image"], again["image"])
        assert not torch.equal(first["image"], other["image"])

    def test_without_a_crop_the_picture_keeps_its_scale(self, synthetic_shards: Path) -> None:
        augment = AugmentConfig(scale_min=0.5, scale_max=0.5)
        assert SegmentationDataset(str(synthetic_shards), augment=augment)[0]["image"].shape == (3, 48, 64)

    @pytest.mark.parametrize("sides", [{"crop_height": 48}, {"crop_width": 48}])
    def test_a_crop_of_one_side_is_refused(self, synthetic_shards: Path, sides: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match="set both, or neither"):
            SegmentationDataset(str(synthetic_shards), augment=AugmentConfig(**sides))

    def test_it_feeds_torchs_own_dataloader(self, synthetic_shards: Path) -> None:
        augment = AugmentConfig(crop_height=48, crop_width=64)
        loader = torch.utils.data.DataLoader(SegmentationDataset(str(synthetic_shards), augment=augment), batch_size=6)
        assert [batch["image"].shape for batch in loader] == [(6, 3, 48, 64)] * 4
