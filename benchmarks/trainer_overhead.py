"""How much host time does the trainer add to a step, compared with a bare loop on the same batch from memory?

    python benchmarks/trainer_overhead.py [--model tiny|recipe] [--pairs 7]

Both train the same network with the same optimiser in the same process, in alternating blocks of steps. The bare loop
does forward, loss, backward and optimiser. The trainer does the same and all its other work: seeding, running
statistics, clipping, moving average, finite check, time account, and every sink (JSON lines, Prometheus, TensorBoard,
progress). There is one rank, so waiting for other ranks is not included; neither are checkpoints and digests of the
weights. Prints the milliseconds added per step and the ratio: median and spread of the pairs.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from dist_seg.config.load import load_config
from dist_seg.config.recipes import recipe_path
from dist_seg.config.schema import Config, ModelConfig
from dist_seg.data.loading.batch import Batch
from dist_seg.data.plan.plan import TrainPlan
from dist_seg.distributed.world import World
from dist_seg.engine.bad_data import BadDataRecord
from dist_seg.engine.batch_norm_statistics import RunningStatistics
from dist_seg.engine.build import Trainee
from dist_seg.engine.ema import ExponentialMovingAverage
from dist_seg.engine.optim import build_optimizer
from dist_seg.engine.run_progress import Progress
from dist_seg.engine.saver import Saver
from dist_seg.engine.scorer import Scorer
from dist_seg.engine.stop import StopSignal
from dist_seg.engine.strategies.ddp import DdpStrategy
from dist_seg.engine.trainer import Feed, Trainer
from dist_seg.runtime.memory import keep_freed_memory
from dist_seg.runtime.precision import make_deterministic
from dist_seg.tasks.build import build_task
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.semantic import SemanticTask
from dist_seg.tasks.task import EvalResult
from dist_seg.telemetry.build import build_sinks
from dist_seg.telemetry.events import RunStarted

_CLASSES = 11


def one_convolution(config: ModelConfig, num_classes: int) -> nn.Module:
    """The smallest possible network: only host time remains of its step."""
    return nn.Conv2d(3, num_classes, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "recipe"), default="tiny")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    block = 200 if options.model == "tiny" else 3
    config = _config(options.model, max_steps=block * (options.pairs + 1))
    make_deterministic(config, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = _trainer_block(config, Path(folder), block), _bare_block(config, block)
        ours(), bare()  # warm up
        pairs = [(ours(), bare()) for _ in range(options.pairs)]
    added_ms = [(a - b) / block * 1e3 for a, b in pairs]
    ratios = [a / b for a, b in pairs]
    figures = {
        "model": options.model,
        "pairs": options.pairs,
        "bare_step_ms": statistics.median(b / block * 1e3 for _, b in pairs),
        "added_ms": {"median": statistics.median(added_ms), "min": min(added_ms), "max": max(added_ms)},
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _config(model: str, max_steps: int) -> Config:
    overrides = [f"train.max_steps={max_steps}", "train.eval_interval_steps=0", "checkpoint.interval_steps=1000000"]
    overrides += ["train.global_batch=4", "train.micro_batch=4", "telemetry.tensorboard=true", "model.weights=null"]
    overrides += ["telemetry.digest_interval_steps=0"]  # counted in the audit, not in a step
    if model == "tiny":
        overrides += ["augment.crop_height=8", "augment.crop_width=8"]
        overrides += ["model.name=benchmarks.trainer_overhead:one_convolution"]
    return load_config([recipe_path("camvid_deeplabv3plus.yaml")], overrides)


def _made(config: Config) -> tuple[SemanticTask, nn.Module, Batch]:
    names = tuple(f"class_{i}" for i in range(_CLASSES))
    task = build_task(config, ClassInfo(names=names, palette=((0, 0, 0),) * _CLASSES, ignore_index=255), [1] * _CLASSES)
    assert isinstance(task, SemanticTask)
    torch.manual_seed(0)
    model = task.build_model().to(memory_format=torch.channels_last).train()
    blank = task.blank_batch(torch.device("cpu"))
    batch = Batch(
        images=torch.randn_like(blank.images),
        targets=torch.randint(0, _CLASSES, blank.targets.shape),
        keys=tuple(f"sample_{i}" for i in range(len(blank.keys))),
        digest=1,
    )
    return task, model, batch


def _run_started(max_steps: int, block: int) -> RunStarted:
    return RunStarted(
        step=0,
        max_steps=max_steps,
        steps_per_epoch=block,
        world_size=1,
        global_batch=4,
        micro_batch=4,
        device="cpu",
        class_names=("a",),
        manifest_hash="",
        versions={},
        startup_s=0.0,
    )


def _trainer_block(config: Config, folder: Path, block: int) -> Callable[[], float]:
    task, model, batch = _made(config)
    assert config.train.max_steps is not None
    world = World()
    optimizer = build_optimizer(config.optim, model)
    strategy = DdpStrategy(model, optimizer, world=world, lanes=1, clip_norm=config.optim.clip_norm, compile=False)
    emit = build_sinks(config.telemetry, folder, rank=0, local_rank=0).sink.emit

    class PausedError(Exception):
        """Ends a block between two steps."""

    progress = Progress()

    def batches_of(units: Iterable[tuple[int, int]], bad_shards: Mapping[str, str]) -> Generator[Batch, None, None]:
        for step, _ in units:
            if step and step % block == 0 and progress.step == step and not resumed.pop(step, False):
                raise PausedError
            yield batch

    resumed: dict[int, bool] = {}
    ema = ExponentialMovingAverage(strategy.held(), config.train.ema_decay)
    trainee = Trainee(
        task=task,
        strategy=strategy,
        statistics=RunningStatistics(model, config.model.norm_momentum),
        ema=ema,
        progress=progress,
    )
    saver = Saver(config=config, world=world, trainee=trainee, writer=None, manifest_meta={}, emit=emit)
    trainer = Trainer(
        config=config,
        world=world,
        trainee=trainee,
        feed=Feed(
            plan=TrainPlan([4 * block], seed=0, global_batch=4, micro_batch=4, shuffle_window=64),
            batches_of=batches_of,
            bad_data=BadDataRecord(data=config.data, shard_samples={}, world=world, progress=progress, emit=emit),
        ),
        scorer=Scorer(
            config=config,
            trainee=trainee,
            evaluate=lambda model: EvalResult(headline={"miou": 0.0}, score_name="miou", document={}, images=0),
            scored_steps=(),
            saver=saver,
            emit=emit,
        ),
        saver=saver,
        emit=emit,
        stop=StopSignal(),
    )
    emit(_run_started(config.train.max_steps, block))

    def run() -> float:
        resumed[progress.step] = True
        begin = time.perf_counter()
        with contextlib.suppress(PausedError):
            trainer.run()
        return time.perf_counter() - begin

    return run


def _bare_block(config: Config, block: int) -> Callable[[], float]:
    task, model, batch = _made(config)
    optimizer = build_optimizer(config.optim, model)

    def run() -> float:
        begin = time.perf_counter()
        for _ in range(block):
            optimizer.zero_grad(set_to_none=True)
            loss = task.losses(model, batch)["loss"]
            loss.backward()
            optimizer.step()
        return time.perf_counter() - begin

    return run


if __name__ == "__main__":
    main()
