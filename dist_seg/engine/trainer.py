"""The training loop: one for every task, engine and number of ranks."""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch

from dist_seg.config.schema import Config, OptimConfig, TrainConfig
from dist_seg.data.codecs.encoded import BadSample, BadShard
from dist_seg.data.loading.batch import Batch
from dist_seg.data.plan.plan import Plan, lanes_of_rank
from dist_seg.distributed.collectives import raise_if_any, sum_over_ranks
from dist_seg.distributed.position import HERE
from dist_seg.distributed.world import World
from dist_seg.engine.bad_data import BadDataRecord
from dist_seg.engine.build import Trainee
from dist_seg.engine.digest import agreed_digest, batch_digest, weights_digest
from dist_seg.engine.optim import lr_factor
from dist_seg.engine.saver import Saver
from dist_seg.engine.scorer import Scorer
from dist_seg.engine.stop import StopSignal
from dist_seg.engine.stragglers import RankClock
from dist_seg.errors import RunFailedError
from dist_seg.runtime.clock import Mark, mark, seconds_between
from dist_seg.runtime.precision import autocast, dtype_of, resolve_precision
from dist_seg.runtime.rng import seed_of
from dist_seg.tasks.task import ModelOutput
from dist_seg.telemetry.events import (
    DigestTaken,
    Event,
    NonFiniteStep,
    StepDone,
)

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class StepTimes:
    """Where the time of one step on this rank went."""

    data_wait: float = 0.0
    """Seconds that the host waited for a batch."""
    lanes: list[tuple[Mark, Mark, Mark]] = field(default_factory=list)
    """Begin, end of the forward pass and end of the backward pass of every micro-batch."""
    optimizer: float = 0.0
    """Seconds from the last backward pass to the update of the weights, including the wait for other ranks."""

    @property
    def forward_of_lanes(self) -> list[float]:
        return [seconds_between(begin, middle) for begin, middle, _ in self.lanes]

    @property
    def backward_of_lanes(self) -> list[float]:
        return [seconds_between(middle, end) for _, middle, end in self.lanes]


@dataclass(kw_only=True)
class _Lanes:
    """Results of a rank's micro-batches in one step."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    """Losses by name, summed over this rank's lanes, in double precision."""
    digests: dict[int, int] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    bad: list[BadSample] = field(default_factory=list)
    bad_shards: list[BadShard] = field(default_factory=list)
    replaced: int = 0
    failure: Exception | None = None

    def add(self, lane: int, batch: Batch, losses: Mapping[str, torch.Tensor]) -> None:
        for name, value in losses.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.digests[lane] = batch.digest
        self.keys.extend(batch.keys)
        self.bad.extend(batch.bad)
        self.bad_shards.extend(batch.bad_shards)
        self.replaced += batch.replaced


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What a training reads."""

    plan: Plan
    batches_of: Callable[[Iterable[tuple[int, int]], Mapping[str, str]], Generator[Batch, None, None]]
    """The micro-batches of (step, lane) pairs, in order. The mapping names the shards that are known to be bad."""
    bad_data: BadDataRecord


class Trainer:
    """Trains from `progress.step` to `max_steps`, or until a stop signal.

    Every rank runs one. See `dist_seg.engine.run` for how its parts are built.
    """

    def __init__(
        self,
        *,
        config: Config,
        world: World,
        trainee: Trainee,
        feed: Feed,
        scorer: Scorer,
        saver: Saver,
        emit: Callable[[Event], None],
        stop: StopSignal,
    ) -> None:
        self._config, self._world, self._trainee, self._feed = config, world, trainee, feed
        self._strategy, self._progress, self._plan = trainee.strategy, trainee.progress, feed.plan
        self._scorer, self._saver, self._emit, self._stop = scorer, saver, emit, stop
        train: TrainConfig = config.train
        assert train.max_steps is not None
        self._max_steps = train.max_steps
        self._lanes = lanes_of_rank(feed.plan.lanes, world.rank, world.size)
        self._precision = resolve_precision(train.precision, world.device)
        self._dtype = dtype_of(self._precision)
        self._layout = torch.channels_last if train.channels_last else torch.contiguous_format
        self._rank_clock = RankClock(
            world=world,
            lanes=feed.plan.lanes,
            meets_in_backward=trainee.strategy.rounds > 0,
            interval_steps=config.telemetry.rank_times_interval_steps,
            emit=emit,
        )
        self._save_is_due = False

    def run(self) -> bool:
        """Whether the last step is done. False if a signal stopped the run, whose state is then in a checkpoint.

        It is no error yet if the last step could not be saved: check `Saver.unsaved` once the result is written.
        """
        self._feed.bad_data.announce()
        batches = self._batches_from_here()
        try:
            if self._progress.step and self._is_eval_step() and not self._scorer.score():
                return self._stopped()
            while self._progress.step < self._max_steps:
                num_bad_shards = len(self._progress.bad_shards)
                if not self._train_step(batches):
                    return self._stopped()
                if len(self._progress.bad_shards) > num_bad_shards:
                    # Batches read ahead may hold samples of bad shards. From this step on none does, on any rank.
                    batches.close()
                    batches = self._batches_from_here()
                if self._is_checkpoint_step() or self._is_eval_step():
                    self._saver.save()
                self._saver.poll()
                if self._is_eval_step() and not self._scorer.score():
                    return self._stopped()
        finally:
            batches.close()
        self._saver.wait()
        return True

    def _batches_from_here(self) -> Generator[Batch, None, None]:
        units = ((step, lane) for step in range(self._progress.step, self._max_steps) for lane in self._lanes)
        return self._feed.batches_of(units, dict(self._progress.bad_shards))

    def _train_step(self, batches: Iterator[Batch]) -> bool:
        """One optimiser step; False if all ranks agreed to stop before it."""
        step, times = self._progress.step, StepTimes()
        writing = self._saver.is_writing
        HERE.at("data_wait", step)
        begin = time.perf_counter()
        first, failure = _next_or_failure(batches)
        times.data_wait = time.perf_counter() - begin
        if not self._agree_to_continue(failure or self._saver.failure):
            return False
        assert first is not None
        self._trainee.statistics.begin_step()
        done = self._run_lanes(step, first, batches, times)
        self._agree_on_data(done)

        HERE.at("optimizer")
        updating = mark(self._world.device)
        means = sum_over_ranks(torch.stack(list(done.sums.values()))) / self._plan.lanes
        loss = means[list(done.sums).index("loss")]
        factor = lr_factor(self._config.optim, step, self._max_steps)
        with HERE.collective():  # On a GPU, the host waits here for the sum of the gradients.
            grad_norm, skipped = self._strategy.step(factor, loss)
        self._trainee.statistics.end_step(self._plan.lanes, skipped=skipped)
        if self._trainee.ema is not None and not skipped:
            self._trainee.ema.update(step + 1)
        updated = mark(self._world.device)

        self._progress.step = step + 1
        # Brings the losses to the host, and so waits for all work on the device, `updated` included.
        numbers = dict(zip(done.sums, means.tolist(), strict=True))
        times.optimizer = seconds_between(updating, updated)
        step_s = time.perf_counter() - begin
        self._report_step(numbers, grad_norm, skipped, done, times, step_s)
        self._saver.step_done(step_s, writing=writing)
        self._check_finite(skipped, numbers["loss"], grad_norm)
        every = self._config.telemetry.digest_interval_steps
        if every and (self._progress.step % every == 0 or self._progress.step == self._max_steps):
            batch_hash = batch_digest(done.digests, self._plan.lanes)
            weights_hash = agreed_digest(weights_digest(self._strategy.whole(self._strategy.held())))
            self._emit(DigestTaken(step=self._progress.step, batch=batch_hash, weights=weights_hash))
        return True

    def _run_lanes(self, step: int, first: Batch, batches: Iterator[Batch], times: StepTimes) -> _Lanes:
        """Forward and backward passes of this rank's micro-batches. The last one sums the gradient over ranks."""
        done = _Lanes()
        for _ in range(self._strategy.rounds - len(self._lanes)):
            self._run_blank_lane(first.images.device)
        for lane in self._lanes:
            last, batch = lane == self._lanes[-1], first
            if lane != self._lanes[0] and done.failure is None:
                HERE.at("data_wait")
                waiting = time.perf_counter()
                following, done.failure = _next_or_failure(batches)
                times.data_wait += time.perf_counter() - waiting
                # A lane whose batch failed joins the same collectives with the first batch; the step will not count.
                batch = following or first
            # Dropout and other random operations depend only on (seed, step, lane), not on the rank or earlier steps.
            _seed(seed_of("lane", self._config.train.seed, step, lane), self._world.device)
            HERE.at("forward")
            begin = mark(self._world.device)
            with autocast(self._precision, self._world.device):
                losses = self._trainee.task.losses(partial(self._forward, last=last), batch)
            middle = mark(self._world.device)
            HERE.at("backward")
            with HERE.collective() if last or self._strategy.rounds else nullcontext():
                self._strategy.backward(losses["loss"], last=last)
            self._trainee.statistics.collect()
            times.lanes.append((begin, middle, mark(self._world.device)))
            done.add(lane, batch, losses)
        return done

    def _run_blank_lane(self, device: torch.device) -> None:
        """Runs an empty micro-batch so that ranks with one lane fewer still join the collectives.

        It adds nothing to the gradient. Only needed for engines whose ranks meet on every micro-batch.
        """
        HERE.at("forward")
        with autocast(self._precision, self._world.device):
            loss = self._trainee.task.losses(
                partial(self._forward, last=False), self._trainee.task.blank_batch(device)
            )["loss"]
        HERE.at("backward")
        with HERE.collective():
            self._strategy.backward(loss * 0.0, last=False)

    def _forward(self, images: torch.Tensor, *more: object, last: bool) -> ModelOutput:
        # Convert the layout too: dropout draws in memory order, and an engine may keep the weights in another layout.
        return self._strategy.forward(images.to(self._dtype, memory_format=self._layout), *more, last=last)

    def _agree_to_continue(self, failure: Exception | None) -> bool:
        """False if any rank wants to stop; raises if any has failed. Also agrees whether to save after the step, which
        rank 0 decides. Called before the forward pass."""
        own = [self._stop.requested, failure is not None, self._saver.is_wanted]
        flags = torch.tensor(own, dtype=torch.int64)
        stop, failed, self._save_is_due = sum_over_ranks(flags).tolist()
        if failed:
            raise_if_any(failure)
        return not stop

    def _agree_on_data(self, done: _Lanes) -> None:
        """Agrees on problems of the lanes: a failure ends all ranks before the step counts; bad data is recorded."""
        flags = torch.tensor([done.failure is not None, len(done.bad), len(done.bad_shards)], dtype=torch.int64)
        failed, num_bad, num_bad_shards = sum_over_ranks(flags).tolist()
        if failed:
            raise_if_any(done.failure)
        if num_bad_shards:
            self._feed.bad_data.record_shards(done.bad_shards)
        if num_bad:
            self._feed.bad_data.record_samples(done.bad)

    def _report_step(
        self,
        numbers: Mapping[str, float],
        grad_norm: float,
        skipped: bool,
        done: _Lanes,
        times: StepTimes,
        step_s: float,
    ) -> None:
        step, optim, keys = self._progress.step, self._config.optim, done.keys
        forward_s, backward_s = times.forward_of_lanes, times.backward_of_lanes
        if skipped:
            self._emit(NonFiniteStep(step=step, loss=numbers["loss"], grad_norm=grad_norm, keys=keys))
            _log.warning(
                "step %d skipped: loss %g, gradient norm %g; samples %s",
                step,
                numbers["loss"],
                grad_norm,
                ", ".join(keys),
            )
        self._emit(
            StepDone(
                step=step,
                epoch=(step - 1) // self._plan.steps_per_epoch,
                loss=numbers["loss"],
                parts={name: value for name, value in numbers.items() if name != "loss"},
                lr=current_lr(optim, step - 1, self._max_steps),
                grad_norm=grad_norm,
                skipped=skipped,
                samples=len(keys),
                step_s=step_s,
                data_wait_s=times.data_wait,
                forward_s=sum(forward_s),
                backward_s=sum(backward_s),
                optimizer_s=times.optimizer,
                replaced=done.replaced,
            )
        )
        self._rank_clock.add(step, data_wait_s=times.data_wait, forward_s=forward_s, backward_s=backward_s)

    def _check_finite(self, skipped: bool, loss: float, grad_norm: float) -> None:
        self._progress.nonfinite_in_a_row = self._progress.nonfinite_in_a_row + 1 if skipped else 0
        if self._progress.nonfinite_in_a_row >= self._config.train.max_nonfinite_steps:
            raise RunFailedError(
                f"loss or gradient were not finite in {self._progress.nonfinite_in_a_row} steps in a row (the last: "
                f"loss {loss}, gradient norm {grad_norm}): training has diverged. Lower optim.lr or set "
                "optim.clip_norm; the last checkpoint is from before"
            )

    def _is_eval_step(self) -> bool:
        every, step = self._config.train.eval_interval_steps, self._progress.step
        return step == self._max_steps or bool(every and step % every == 0)

    def _is_checkpoint_step(self) -> bool:
        every = self._config.checkpoint.interval_steps
        if every == "auto":
            return bool(self._save_is_due)
        return bool(every and self._progress.step % every == 0)

    def _stopped(self) -> bool:
        """Writes a checkpoint of this step after a signal."""
        self._saver.save_last()
        return False


def current_lr(optim: OptimConfig, step: int, max_steps: int) -> float:
    """The learning rate of the decoder at a step, counted from 0."""
    return optim.lr * lr_factor(optim, step, max_steps)


def _next_or_failure(batches: Iterator[Batch]) -> tuple[Batch | None, Exception | None]:
    try:
        return next(batches), None
    except Exception as error:  # Raised again once every rank knows of it.
        return None, error


def _seed(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for the CPU and this device only. The original records the stack for every missing kind of
    device, which takes over a millisecond."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
