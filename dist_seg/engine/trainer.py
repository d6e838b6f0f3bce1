"""The training loop: one for every task, engine and number of ranks."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from dist_seg.checkpoint.state import CheckpointMeta, TrainingState, snapshot
from dist_seg.checkpoint.writer import CheckpointWriter
from dist_seg.config.load import to_tree
from dist_seg.config.schema import Config, OptimConfig, TrainConfig
from dist_seg.data.batch import BadSample, Batch
from dist_seg.data.plan import TrainPlan, lanes_of_rank
from dist_seg.engine.digest import agreed_digest, batch_digest, weights_digest
from dist_seg.engine.ema import ExponentialMovingAverage
from dist_seg.engine.optim import lr_factor
from dist_seg.engine.statistics import RunningStatistics
from dist_seg.engine.stop import StopSignal
from dist_seg.engine.strategy import Strategy
from dist_seg.errors import DataError
from dist_seg.runtime.collectives import barrier, gather_json, sum_over_ranks
from dist_seg.runtime.precision import autocast, dtype_of, resolve_precision
from dist_seg.runtime.streams import seed_of
from dist_seg.runtime.world import World
from dist_seg.tasks.task import EvalResult, Task
from dist_seg.telemetry.events import BadSampleFound, DigestTaken, EvalDone, Event, NonFiniteStep, StepDone

_log = logging.getLogger(__name__)


class TrainingFailedError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


@dataclass(kw_only=True)
class Progress:
    """What a run has behind it, apart from weights; kept in every checkpoint."""

    step: int = 0
    bad_samples: dict[str, str] = field(default_factory=dict)
    nonfinite_in_a_row: int = 0


@dataclass(kw_only=True)
class StepTimes:
    """Seconds of one step on this rank, by what they went to."""

    data_wait: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    optimizer: float = 0.0


class Trainer:
    """Trains from `progress.step` to `max_steps`, or until a stop signal.

    Everything it needs is made by others (see `dist_seg.engine.run`); every rank runs one.
    """

    def __init__(
        self,
        *,
        config: Config,
        world: World,
        task: Task,
        strategy: Strategy,
        statistics: RunningStatistics,
        ema: ExponentialMovingAverage | None,
        plan: TrainPlan,
        batches_of: Callable[[Iterable[tuple[int, int]]], Iterator[Batch]],
        evaluate: Callable[[nn.Module], EvalResult | None],
        scored_steps: Mapping[int, float],
        writer: CheckpointWriter | None,
        manifest_meta: Mapping[str, object],
        emit: Callable[[Event], None],
        stop: StopSignal,
        progress: Progress,
    ) -> None:
        self._config, self._world, self._task, self._strategy = config, world, task, strategy
        self._statistics, self._ema, self._plan, self._batches_of = statistics, ema, plan, batches_of
        self._evaluate, self._scored_steps, self._writer = evaluate, dict(scored_steps), writer
        self._manifest_meta, self._emit, self._stop, self.progress = manifest_meta, emit, stop, progress
        train: TrainConfig = config.train
        assert train.max_steps is not None
        self._max_steps = train.max_steps
        self._lanes = lanes_of_rank(plan.lanes, world.rank, world.size)
        self._precision = resolve_precision(train.precision, world.device)
        self._dtype = dtype_of(self._precision)
        self.last_result: EvalResult | None = None

    def run(self) -> bool:
        """True when the last step is done, False when a signal stopped the run; its state is then in a checkpoint."""
        units = ((step, lane) for step in range(self.progress.step, self._max_steps) for lane in self._lanes)
        batches = self._batches_of(units)
        try:
            if self.progress.step and self._is_eval_step() and not self._score():
                return self._stopped()
            while self.progress.step < self._max_steps:
                if not self._train_step(batches):
                    return self._stopped()
                if self._is_checkpoint_step() or self._is_eval_step():
                    self._save()
                if self._writer is not None:
                    self._writer.poll()
                if self._is_eval_step() and not self._score():
                    return self._stopped()
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()
        if self._writer is not None:
            self._writer.wait()
        barrier()
        return True

    def _train_step(self, batches: Iterator[Batch]) -> bool:
        """One optimiser step; False if all ranks agreed to stop before it."""
        step, config, times = self.progress.step, self._config, StepTimes()
        begin = time.perf_counter()
        first, failure = _next_or_failure(batches)
        times.data_wait = time.perf_counter() - begin
        if not self._agree_to_go_on(first, failure):
            return False
        assert first is not None

        self._statistics.begin_step()
        parts: dict[str, torch.Tensor] = {}
        digests: dict[int, int] = {}
        keys: list[str] = []
        samples = 0
        for lane in self._lanes:
            last = lane == self._lanes[-1]
            mark = time.perf_counter()
            batch = first if lane == self._lanes[0] else next(batches)
            times.data_wait += time.perf_counter() - mark if lane != self._lanes[0] else 0.0
            # Dropout and the like depend on (seed, step, lane) alone: not on the rank, nor on what ran before.
            torch.manual_seed(seed_of("lane", config.train.seed, step, lane))
            mark = time.perf_counter()
            with autocast(self._precision, self._world.device):
                losses = self._task.losses(
                    lambda images, last=last: self._strategy.forward(images.to(self._dtype), last=last),  # type: ignore[misc]  # `last` is bound on purpose
                    batch,
                )
            middle = time.perf_counter()
            self._strategy.backward(losses["loss"], last=last)
            self._statistics.collect()
            times.forward += middle - mark
            times.backward += time.perf_counter() - middle
            for name, value in losses.items():
                value = value.detach().double()
                parts[name] = parts[name] + value if name in parts else value
            digests[lane] = batch.digest
            keys.extend(batch.keys)
            samples += len(batch.keys)

        mark = time.perf_counter()
        means = sum_over_ranks(torch.stack(list(parts.values()))) / self._plan.lanes
        loss = means[list(parts).index("loss")]
        factor = lr_factor(config.optim, step, self._max_steps)
        grad_norm, skipped = self._strategy.step(factor, loss)
        self._statistics.end_step(self._plan.lanes, skipped=skipped)
        if self._ema is not None and not skipped:
            self._ema.update(step + 1)
        times.optimizer = time.perf_counter() - mark
        self.progress.step = step + 1
        numbers = dict(zip(parts, means.tolist(), strict=True))
        self._report_step(numbers, grad_norm, skipped, keys, samples, times, time.perf_counter() - begin)
        self._check_finite(skipped, numbers["loss"], grad_norm)
        every = config.telemetry.digest_interval_steps
        if every and (self.progress.step % every == 0 or self.progress.step == self._max_steps):
            batch_hash = batch_digest(digests, self._plan.lanes)
            weights_hash = agreed_digest(weights_digest(self._strategy.module))
            self._emit(DigestTaken(step=self.progress.step, batch=batch_hash, weights=weights_hash))
        return True

    def _agree_to_go_on(self, first: Batch | None, failure: Exception | None) -> bool:
        """What every rank must know before the forward pass: whether one wants to stop, failed, or met bad samples."""
        bad = first.bad if first is not None else ()
        flags = torch.tensor([self._stop.requested, failure is not None, len(bad)], dtype=torch.int64)
        stop, failed, num_bad = sum_over_ranks(flags).tolist()
        if failed:
            raise (
                failure
                if failure is not None
                else TrainingFailedError("another rank could not read its data; see its message")
            )
        if stop:
            return False
        if num_bad:
            self._record_bad_samples(bad)
        return True

    def _record_bad_samples(self, own: Iterable[BadSample]) -> None:
        step = self.progress.step + 1
        for sample in own:
            self._emit(BadSampleFound(step=step, key=sample.key, shard=sample.shard, reason=sample.reason))
        for found in gather_json([[sample.key, sample.reason] for sample in own]):
            self.progress.bad_samples.update(found)  # type: ignore[call-overload]  # pairs, as sent above
        most = self._config.data.max_bad_samples
        if len(self.progress.bad_samples) > most:
            named = ", ".join(sorted(self.progress.bad_samples)[:5])
            raise DataError(
                f"{len(self.progress.bad_samples)} training samples could not be decoded, more than "
                f"data.max_bad_samples={most} (among them {named}). Run `dist-seg verify {self._config.data.shards}`, "
                "pack the data again, or raise data.max_bad_samples"
            )

    def _report_step(
        self,
        numbers: Mapping[str, float],
        grad_norm: float,
        skipped: bool,
        keys: list[str],
        samples: int,
        times: StepTimes,
        step_s: float,
    ) -> None:
        step, optim = self.progress.step, self._config.optim
        if skipped:
            self._emit(NonFiniteStep(step=step, loss=numbers["loss"], grad_norm=grad_norm, keys=keys))
        self._emit(
            StepDone(
                step=step,
                epoch=self._plan.epoch_of(step - 1),
                loss=numbers["loss"],
                parts={name: value for name, value in numbers.items() if name != "loss"},
                lr=current_lr(optim, step - 1, self._max_steps),
                grad_norm=grad_norm,
                skipped=skipped,
                samples=samples,
                step_s=step_s,
                data_wait_s=times.data_wait,
                forward_s=times.forward,
                backward_s=times.backward,
                optimizer_s=times.optimizer,
            )
        )

    def _check_finite(self, skipped: bool, loss: float, grad_norm: float) -> None:
        self.progress.nonfinite_in_a_row = self.progress.nonfinite_in_a_row + 1 if skipped else 0
        if self.progress.nonfinite_in_a_row >= self._config.train.max_nonfinite_steps:
            raise TrainingFailedError(
                f"loss or gradient were not finite in {self.progress.nonfinite_in_a_row} steps in a row (the last: "
                f"loss {loss}, gradient norm {grad_norm}): training has diverged. Lower optim.lr or set "
                "optim.clip_norm; the last checkpoint is from before"
            )

    def _is_eval_step(self) -> bool:
        every, step = self._config.train.eval_interval_steps, self.progress.step
        return step == self._max_steps or bool(every and step % every == 0)

    def _is_checkpoint_step(self) -> bool:
        every = self._config.checkpoint.interval_steps
        return bool(every and self.progress.step % every == 0)

    def _save(self) -> None:
        if self._writer is not None:
            self._writer.save(self.state)

    def _score(self) -> bool:
        """Evaluates the weights of this step, unless that was done before; False if a signal cut it short."""
        step, is_last = self.progress.step, self.progress.step == self._max_steps
        if step in self._scored_steps and not is_last:
            return True
        begin = time.perf_counter()
        model = self._strategy.module
        if self._ema is not None:
            with self._ema.swapped_in():
                result = self._evaluate(model)
        else:
            result = self._evaluate(model)
        if result is None:
            return False
        self.last_result = result
        self._scored_steps[step] = result.headline["miou"]
        if self._writer is not None:
            self._writer.record_score(step, result.headline["miou"])
        self._emit(
            EvalDone(
                step=step,
                split=self._config.data.val_split,
                weights="ema" if self._ema is not None else "raw",
                metrics=result.headline,
                images=result.images,
                eval_s=time.perf_counter() - begin,
            )
        )
        return True

    def _stopped(self) -> bool:
        """After a signal: leaves a checkpoint of this very step, on disk."""
        if self._writer is not None:
            if self._writer.last_step != self.progress.step:
                self._save()
            self._writer.wait()
        barrier()
        return False

    def state(self) -> TrainingState:
        """A copy of the whole training state, as a checkpoint keeps it."""
        return TrainingState(
            meta=CheckpointMeta(
                step=self.progress.step,
                config=to_tree(self._config),
                manifest=self._manifest_meta,
                world_size=self._world.size,
                bad_samples=dict(self.progress.bad_samples),
                nonfinite_in_a_row=self.progress.nonfinite_in_a_row,
            ),
            model=snapshot(self._strategy.module.state_dict()),
            ema=snapshot(self._ema.averages) if self._ema is not None else {},
            optimizer=snapshot(self._strategy.optimizer_state()),
        )


def current_lr(optim: OptimConfig, step: int, max_steps: int) -> float:
    """The decoder's learning rate at a step counted from 0."""
    return optim.lr * lr_factor(optim, step, max_steps)


def _next_or_failure(batches: Iterator[Batch]) -> tuple[Batch | None, Exception | None]:
    try:
        return next(batches), None
    except Exception as error:  # Not swallowed: it is raised once every rank knows of it.
        return None, error
