"""Checks that types cannot express: ranges, and values that must agree with each other."""

import math
import re
from collections.abc import Iterator

from dist_seg.config.schema import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    MaskRcnnConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from dist_seg.errors import ConfigError

_LAST_ATTEMPT_S = 60.0
"""How much longer than `data.retry_s` a read may take: its last attempt has its own time limit."""

_MEMBER_NAME = re.compile(r"\w[\w-]*", re.ASCII)
MAX_FOLDS = 255
WRITABLE_STORES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
"""URL schemes of the object stores that checkpoints can be written to."""


def check_config(config: Config) -> None:
    """Raises one ConfigError that lists all wrong values, each with its key and what is allowed."""
    problems = [
        *_data_problems(config.data),
        *_augment_problems(config.augment),
        *_model_problems(config.model),
        *_mask_rcnn_problems(config.mask_rcnn),
        *_loss_problems(config.loss),
        *_optim_problems(config.optim),
        *_train_problems(config.train),
        *_engine_problems(config),
        *_other_problems(config),
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _at_least(key: str, value: float | None, least: float) -> Iterator[str]:
    if value is not None and not value >= least:
        yield f"{key}={value}: must be at least {least:g}"


def _above(key: str, value: float | None, bound: float) -> Iterator[str]:
    if value is not None and not value > bound:
        yield f"{key}={value}: must be greater than {bound:g}"


def _within(key: str, value: float, least: float, most: float) -> Iterator[str]:
    if not least <= value <= most:
        yield f"{key}={value}: must lie in [{least:g}, {most:g}]"


def _data_problems(data: DataConfig) -> Iterator[str]:
    yield from _at_least("data.num_threads", data.num_threads, 0)
    yield from _at_least("data.prefetch", data.prefetch, 1)
    yield from _at_least("data.shuffle_window", data.shuffle_window, 1)
    yield from _mix_problems(data)
    yield from _selection_problems(data)
    yield from _above("data.sampling_temperature", data.sampling_temperature, 0)
    if data.sampling_temperature is not None and data.sampling != "rare_class":
        yield (
            f"data.sampling_temperature={data.sampling_temperature}: has no effect with data.sampling={data.sampling}, "
            "only with rare_class"
        )
    yield from _at_least("data.max_bad_samples", data.max_bad_samples, 0)
    yield from _at_least("data.max_bad_shards", data.max_bad_shards, 0)
    yield from _at_least("data.max_pixels", data.max_pixels, 1)
    yield from _at_least("data.retry_s", data.retry_s, 0)
    yield from _above("data.input_scale", data.input_scale, 0)
    yield from _at_least("data.input_side", data.input_side, 1)
    if data.input_scale is not None and data.input_side is not None:
        yield f"data.input_side={data.input_side}: set it or data.input_scale={data.input_scale}, not both"
    for std in data.std or ():
        yield from _above("data.std", std, 0)
    if data.channels is not None and (not data.channels or min(data.channels) < 0):
        yield f"data.channels={list(data.channels)}: must be one or more numbers from 0"
    yield from _at_least("data.image_channels", data.image_channels, 1)


def _mix_problems(data: DataConfig) -> Iterator[str]:
    if not data.mix:
        return
    names = [member.name for member in data.mix]
    if data.shards is not None:
        yield f"data.shards={data.shards}: set it or data.mix, not both"
    if len(names) < 2 or len(set(names)) < len(names):
        yield f"data.mix: has the names {', '.join(names)}; give at least two data sets, each with its own name"
    for name in names:
        if not _MEMBER_NAME.fullmatch(name):
            yield f"data.mix: the name {name!r} may contain only letters, digits, _ and -"
    if data.class_map:
        yield "data.class_map: has no effect with data.mix; give each data set in it a class_map"
    weights = [member.weight for member in data.mix if member.weight is not None]
    if not all(0 < weight < math.inf for weight in weights):
        yield f"data.mix: weights are {', '.join(f'{weight:g}' for weight in weights)}; they must be positive numbers"
    if weights and len(weights) < len(names):
        yield "data.mix: give either every data set a weight, or none of them"
    if weights and data.sampling != "uniform":
        yield f"data.mix: weights have no effect with data.sampling={data.sampling}, which draws by class"


def _selection_problems(data: DataConfig) -> Iterator[str]:
    if not 0 < data.fraction <= 1:
        yield f"data.fraction={data.fraction}: must lie in (0, 1]; 1 takes every sample"
    if data.folds is None:
        for name in ("fold", "fold_by"):
            if getattr(data, name) is not None:
                yield f"data.{name}={getattr(data, name)}: has no effect without data.folds, the number of folds"
        return
    if not 2 <= data.folds <= MAX_FOLDS:
        yield f"data.folds={data.folds}: must lie between 2 and {MAX_FOLDS}"
    elif data.fold is None:
        yield f"data.folds={data.folds}: set data.fold, 0 to {data.folds - 1}, to the fold to validate on"
    elif not 0 <= data.fold < data.folds:
        yield f"data.fold={data.fold}: must lie between 0 and {data.folds - 1}, because data.folds={data.folds}"
    if data.val_split != "val":
        yield f"data.val_split={data.val_split}: has no effect with data.folds: one of the folds is validated on"
    try:
        re.compile(data.fold_by or "")
    except re.error as error:
        yield f"data.fold_by={data.fold_by}: is not a regular expression: {error}"


def _augment_problems(augment: AugmentConfig) -> Iterator[str]:
    yield from _at_least("augment.crop_height", augment.crop_height, 1)
    yield from _at_least("augment.crop_width", augment.crop_width, 1)
    yield from _above("augment.scale_min", augment.scale_min, 0)
    if augment.scale_max < augment.scale_min:
        yield f"augment.scale_max={augment.scale_max}: must not be less than augment.scale_min={augment.scale_min}"
    yield from _within("augment.rotate_deg", augment.rotate_deg, 0, 180)
    yield from _within("augment.min_visible", augment.min_visible, 0, 1)
    yield from _within("augment.hue_deg", augment.hue_deg, 0, 180)
    for name in ("brightness", "contrast", "saturation"):
        yield from _within(f"augment.{name}", getattr(augment, name), 0, 1)
    for name in ("flip_probability", "rotate_probability", "color_probability", "blur_probability"):
        yield from _within(f"augment.{name}", getattr(augment, name), 0, 1)
    if augment.blur_sigma_max and augment.blur_sigma_max < 0.1:
        yield f"augment.blur_sigma_max={augment.blur_sigma_max}: must be 0 (no blur) or at least 0.1 pixels"


def _model_problems(model: ModelConfig) -> Iterator[str]:
    for name in ("aspp_channels", "low_level_channels", "decoder_channels"):
        yield from _at_least(f"model.{name}", getattr(model, name), 1)
    yield from _at_least("model.frozen_stages", model.frozen_stages, 0)
    if not 0 < model.norm_momentum <= 1:
        yield f"model.norm_momentum={model.norm_momentum}: must lie in (0, 1]"
    if not 0 <= model.dropout < 1:
        yield f"model.dropout={model.dropout}: must lie in [0, 1)"


def _mask_rcnn_problems(model: MaskRcnnConfig) -> Iterator[str]:
    counts = (
        "fpn_channels",
        "rpn_pre_nms_train",
        "rpn_pre_nms_eval",
        "rpn_post_nms_train",
        "rpn_post_nms_eval",
        "rpn_samples",
        "roi_samples",
        "mask_samples",
        "box_channels",
        "mask_channels",
        "mask_convs",
        "detections_per_image",
    )
    for name in counts:
        yield from _at_least(f"mask_rcnn.{name}", getattr(model, name), 1)
    shares = (
        "rpn_nms_threshold",
        "rpn_positive_fraction",
        "rpn_positive_iou",
        "rpn_negative_iou",
        "roi_positive_fraction",
        "roi_positive_iou",
        "roi_negative_iou",
        "ignore_overlap",
        "score_threshold",
        "nms_threshold",
    )
    for name in shares:
        yield from _within(f"mask_rcnn.{name}", getattr(model, name), 0, 1)
    if not 0 < model.mask_threshold < 1:
        yield f"mask_rcnn.mask_threshold={model.mask_threshold}: must lie in (0, 1)"
    for stage in ("rpn", "roi"):
        high, low = getattr(model, f"{stage}_positive_iou"), getattr(model, f"{stage}_negative_iou")
        if low > high:
            yield f"mask_rcnn.{stage}_negative_iou={low}: must not be more than mask_rcnn.{stage}_positive_iou={high}"
    sizes = model.anchor_sizes
    if sizes is not None and (len(sizes) != 5 or not all(size > 0 for size in sizes)):
        yield (
            f"mask_rcnn.anchor_sizes={list(sizes)}: must be 5 positive numbers, one for each of "
            "the strides 4, 8, 16, 32, 64"
        )
    if not model.anchor_ratios or not all(ratio > 0 for ratio in model.anchor_ratios):
        yield f"mask_rcnn.anchor_ratios={list(model.anchor_ratios)}: must be one or more positive numbers"


def _loss_problems(loss: LossConfig) -> Iterator[str]:
    yield from _at_least("loss.cross_entropy", loss.cross_entropy, 0)
    yield from _at_least("loss.dice", loss.dice, 0)
    if not 0 <= loss.label_smoothing < 1:
        yield f"loss.label_smoothing={loss.label_smoothing}: must lie in [0, 1)"
    if not 0 < loss.ohem_fraction <= 1:
        yield f"loss.ohem_fraction={loss.ohem_fraction}: must lie in (0, 1]; 1 takes every pixel"
    if loss.cross_entropy == 0 and loss.dice == 0 and loss.custom is None:
        yield "loss: all weights are 0, so nothing would be trained; set loss.cross_entropy or loss.dice"


def _optim_problems(optim: OptimConfig) -> Iterator[str]:
    yield from _above("optim.lr", optim.lr, 0)
    yield from _at_least("optim.encoder_lr_factor", optim.encoder_lr_factor, 0)
    yield from _at_least("optim.weight_decay", optim.weight_decay, 0)
    yield from _at_least("optim.clip_norm", optim.clip_norm, 0)
    yield from _within("optim.warmup_fraction", optim.warmup_fraction, 0, 1)
    yield from _within("optim.min_lr_factor", optim.min_lr_factor, 0, 1)
    for name in ("momentum", "beta1", "beta2"):
        value = getattr(optim, name)
        if not 0 <= value < 1:
            yield f"optim.{name}={value}: must lie in [0, 1)"
    if list(optim.step_milestones) != sorted(set(optim.step_milestones)):
        yield f"optim.step_milestones={list(optim.step_milestones)}: must increase"


def _train_problems(train: TrainConfig) -> Iterator[str]:
    yield from _at_least("train.global_batch", train.global_batch, 1)
    yield from _at_least("train.micro_batch", train.micro_batch, 1)
    yield from _at_least("train.max_steps", train.max_steps, 1)
    yield from _at_least("train.eval_interval_steps", train.eval_interval_steps, 0)
    yield from _at_least("train.max_nonfinite_steps", train.max_nonfinite_steps, 1)
    yield from _at_least("train.num_threads", train.num_threads, 1)
    if not 0 <= train.ema_decay < 1:
        yield f"train.ema_decay={train.ema_decay}: must lie in [0, 1); 0 keeps no average"
    batch, micro = train.global_batch, train.micro_batch
    if batch and micro and batch % micro:
        yield f"train.global_batch={batch}: must be a multiple of train.micro_batch={micro}"


def _engine_problems(config: Config) -> Iterator[str]:
    engine, train = config.engine, config.train
    if engine.name != "deepspeed":
        for name in ("offload_optimizer", "offload_param", "deepspeed_json"):
            if getattr(engine, name):
                yield (
                    f"engine.{name}={getattr(engine, name)}: has no effect with engine.name={engine.name}; set "
                    "engine.name=deepspeed"
                )
        return
    if train.precision == "fp64":
        yield (
            "train.precision=fp64: DeepSpeed only shards single precision; use engine.name=ddp or train.precision=fp32"
        )
    if train.compile:
        yield (
            "train.compile=true: DeepSpeed's hooks break the compiled graph at every module; use engine.name=ddp or "
            "train.compile=false"
        )
    if engine.offload_optimizer and engine.zero_stage == 0:
        yield "engine.offload_optimizer=true: needs engine.zero_stage 1, 2 or 3; stage 0 shards nothing"
    if engine.offload_param and engine.zero_stage != 3:
        yield (
            f"engine.offload_param=true: needs engine.zero_stage=3, not {engine.zero_stage}: only stage 3 shards the "
            "weights"
        )


def _other_problems(config: Config) -> Iterator[str]:
    # While one rank's reader retries a failing storage, the other ranks wait in a collective.
    longest_s = config.data.retry_s + _LAST_ATTEMPT_S
    if not config.train.timeout_s > longest_s:
        yield (
            f"train.timeout_s={config.train.timeout_s}: must be greater than {longest_s:g}, which is data.retry_s and "
            "a minute for the last attempt; raise it or lower data.retry_s"
        )
    yield from _at_least("eval.batch", config.eval.batch, 1)
    yield from _within("eval.merge_threshold", config.eval.merge_threshold, 0, 1)
    yield from _within("eval.label_threshold", config.eval.label_threshold, 0, 1)
    yield from _at_least("eval.bootstrap_samples", config.eval.bootstrap_samples, 0)
    scheme, remote, _ = (config.checkpoint.dir or "").partition("://")
    if remote and scheme not in (*WRITABLE_STORES, "file"):
        known = ", ".join(f"{name}://" for name in WRITABLE_STORES)
        yield f"checkpoint.dir={config.checkpoint.dir}: must be a local folder or a URL of one of {known}"
    if config.checkpoint.interval_steps != "auto":
        yield from _at_least("checkpoint.interval_steps", config.checkpoint.interval_steps, 1)
    yield from _above("checkpoint.mtbf_s", config.checkpoint.mtbf_s, 0)
    yield from _at_least("checkpoint.grace_s", config.checkpoint.grace_s, 1)
    yield from _at_least("checkpoint.keep_last", config.checkpoint.keep_last, 1)
    yield from _at_least("checkpoint.keep_every_steps", config.checkpoint.keep_every_steps, 0)
    yield from _at_least("telemetry.log_interval_steps", config.telemetry.log_interval_steps, 1)
    yield from _at_least("telemetry.digest_interval_steps", config.telemetry.digest_interval_steps, 0)
    yield from _at_least("telemetry.rank_times_interval_steps", config.telemetry.rank_times_interval_steps, 0)
    yield from _within("telemetry.prometheus_port", config.telemetry.prometheus_port, -1, 65535)
