"""Scoring a model on a whole split, each sample exactly once, at any number of ranks."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from dist_seg.config.schema import Config
from dist_seg.data.loading.loader import eval_batches
from dist_seg.data.plan.plan import EvalPlan
from dist_seg.data.shards.manifest import Manifest
from dist_seg.distributed.collectives import raise_if_any, sum_over_ranks
from dist_seg.distributed.position import HERE
from dist_seg.distributed.world import World
from dist_seg.engine.out_of_memory import memory_explained
from dist_seg.runtime.precision import autocast, dtype_of, resolve_precision
from dist_seg.storage.object_store import Storage
from dist_seg.tasks.task import EvalResult, Task


def evaluate(
    model: nn.Module,
    *,
    task: Task,
    config: Config,
    storage: Storage,
    manifest: Manifest,
    split: str,
    world: World,
    num_threads: int,
    on_images: Callable[[int], None] = lambda count: None,
    stop_requested: Callable[[], bool] = lambda: False,
    bad_shards: Mapping[str, str] | None = None,
) -> EvalResult | None:
    """The result, the same on every rank, or None where a rank was asked to stop. A collective.

    Leaves the model in the mode (training or evaluation) that it came in. on_images: called with the number of images
    of this rank that were scored since the last call. bad_shards: of shards that are not to be read, the reasons by
    name; see `eval_batches`.
    """
    plan = EvalPlan(manifest.split(split).shard_samples, batch=config.eval.batch)
    precision = resolve_precision(config.train.precision, world.device)
    metric = task.metric()
    # Remembered one by one: a model may keep parts of itself in evaluation mode while it trains.
    training = [module for module in model.modules() if module.training]
    model.eval()
    indices = plan.of_rank(world.rank, world.size)
    groups = eval_batches(config, manifest, storage, split, plan, indices, world.device, num_threads, bad_shards)
    failure: Exception | None = None
    try:
        for group in groups:
            if stop_requested():
                break
            for batch in group:
                with (
                    memory_explained(config, world, lambda: HERE.words),
                    autocast(precision, world.device),
                ):
                    images = batch.images.to(dtype_of(precision))
                    prediction = task.predict(model, images, batch.targets.shape[-2:]) if batch.keys else ()
                metric.update(prediction, batch)
            on_images(sum(len(batch.keys) for batch in group))
    except Exception as error:  # Not swallowed: the other ranks wait in a collective, and must learn of it first.
        failure = error
    finally:
        groups.close()
        for module in training:
            module.training = True
    flags = sum_over_ranks(torch.tensor([stop_requested(), failure is not None], dtype=torch.int64)).tolist()
    if flags[1]:
        raise_if_any(failure)
    return None if flags[0] else metric.reduce()
