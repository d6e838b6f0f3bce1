"""Scores a model on a whole split, each sample exactly once, at any number of ranks."""

from collections.abc import Callable

import torch
from torch import nn

from dist_seg.config.schema import Config
from dist_seg.data.loading.loader import eval_batches
from dist_seg.data.plan.plan import EvalPlan
from dist_seg.data.view.data_view import DataView
from dist_seg.distributed.collectives import raise_if_any, sum_over_ranks
from dist_seg.distributed.position import HERE
from dist_seg.distributed.world import World
from dist_seg.engine.out_of_memory import memory_explained
from dist_seg.errors import ConfigError
from dist_seg.runtime.precision import autocast, dtype_of, resolve_precision
from dist_seg.tasks.task import EvalResult, Task


def check_flip(config: Config) -> None:
    """Raises ConfigError for mirrored predictions of a task that does not average them."""
    if config.eval.flip and config.task == "instance":
        raise ConfigError("eval.flip=true: has no effect on instances; set eval.flip=false")


def evaluate(
    model: nn.Module,
    *,
    task: Task,
    config: Config,
    view: DataView,
    split: str,
    world: World,
    on_images: Callable[[int], None] = lambda count: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> EvalResult | None:
    """The result, the same on every rank; None if a rank was asked to stop. A collective.

    Restores the mode (training or evaluation) of the model. on_images: called with the number of images that this rank
    scored since the last call.
    """
    plan = EvalPlan(view.split(split).shard_samples, batch=config.eval.batch)
    precision = resolve_precision(config.train.precision, world.device)
    metric = task.metric()
    # Remembered for each module: a model may keep some of its modules in evaluation mode while it trains.
    training = [module for module in model.modules() if module.training]
    model.eval()
    indices = plan.of_rank(world.rank, world.size)
    groups = eval_batches(config, view, split, plan, indices, world.device)
    failure: Exception | None = None
    try:
        for group in groups:
            if stop_requested():
                break
            for batch in group:
                with (
                    memory_explained(config, world, lambda: HERE.description),
                    autocast(precision, world.device),
                ):
                    images = batch.images.to(dtype_of(precision))
                    prediction = task.predict(model, images, batch.targets.shape[-2:]) if batch.keys else ()
                metric.update(prediction, batch)
            on_images(sum(len(batch.keys) for batch in group))
    except Exception as error:  # Raised again below: first the other ranks, which wait in a collective, must know.
        failure = error
    finally:
        groups.close()
        for module in training:
            module.training = True
    flags = sum_over_ranks(torch.tensor([stop_requested(), failure is not None], dtype=torch.int64)).tolist()
    if flags[1]:
        raise_if_any(failure)
    return None if flags[0] else metric.reduce()
