"""Shows the plan of a training before it begins."""

import sys

from dist_seg.capacity.estimate import estimate
from dist_seg.capacity.fit import DataFacts
from dist_seg.capacity.measure import Measured
from dist_seg.config.schema import Config
from dist_seg.data.plan.mixed_plan import MixedPlan
from dist_seg.data.plan.plan import EvalPlan
from dist_seg.data.plan.training_plan import training_plan
from dist_seg.data.view.data_view import DataView
from dist_seg.distributed.world import World
from dist_seg.runtime.plural import count_of
from dist_seg.runtime.progress_bar import duration


def show_plan(
    config: Config,
    facts: DataFacts,
    world: World,
    measured: Measured,
    view: DataView,
    num_threads: int,
) -> None:
    """Prints data, model, sizes, memory and time to stderr."""
    train, augment = config.train, config.augment
    guess = estimate(config, world, measured)
    val = EvalPlan(view.split(config.data.scored_split).shard_samples, batch=config.eval.batch)
    assert train.global_batch and train.micro_batch
    mebibyte, names = 2**20, view.class_names
    lanes = count_of(train.global_batch // train.micro_batch, "micro-batch")
    plan = training_plan(config.data, train, view)
    shares = plan.shares.items() if isinstance(plan, MixedPlan) else ()
    lines = [
        f"data        {config.data.location}: {facts.num_train} training and {val.num_samples} validation images of "
        f"about {facts.width}x{facts.height}, {len(names)} classes "
        f"({', '.join(names[:8])}{', ...' * (len(names) > 8)})",
        f"model       {config.model.name}, {config.model.encoder}, weights {config.model.weights}, "
        f"{measured.parameter_bytes / 4e6:.1f} M parameters",
        *([f"samples     {', '.join(f'{name} {share:.1%}' for name, share in shares)}"] if shares else []),
        *_heads(config),
        f"training    {train.max_steps} steps of {train.global_batch} images ({lanes} of "
        f"{train.micro_batch}), crops of {augment.crop_width}x{augment.crop_height}, "
        f"{_input_size(config)}; {count_of(world.size, 'rank')} on {world.device.type}, "
        f"{count_of(num_threads, 'thread')} each",
        f"memory      per rank: {guess.process_bytes / mebibyte:.0f} MiB for Python and its libraries, "
        f"{guess.device_bytes / mebibyte:.0f} MiB for the model and its training, "
        f"{guess.host_bytes / mebibyte:.0f} MiB for batches decoded ahead; all ranks here: "
        f"{guess.total_bytes * world.local_size / mebibyte:.0f} MiB",
        f"time        about {duration(guess.seconds)} without evaluation, from one micro-batch measured now "
        f"({measured.seconds:.2f} s)",
    ]
    if config.model.norm == "sync":
        lines.append("note        model.norm=sync: the loss curve depends on the number of ranks")
    print("\n".join(lines), file=sys.stderr, flush=True)


def _heads(config: Config) -> list[str]:
    heads = config.mask_rcnn
    if config.task != "instance" or config.model.name != "mask_rcnn":
        return []
    assert heads.anchor_sizes is not None
    anchors = ", ".join(f"{size:g}" for size in heads.anchor_sizes)
    return [
        f"heads       anchors of {anchors} pixels, up to {heads.detections_per_image} detections an image; widths: "
        f"pyramid {heads.fpn_channels}, boxes {heads.box_channels}, masks {heads.mask_channels}"
    ]


def _input_size(config: Config) -> str:
    side = config.data.input_side
    return f"longer side {side}" if side else f"input scale {config.data.input_scale:g}"
