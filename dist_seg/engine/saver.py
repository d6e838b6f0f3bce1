"""Saves the state of a run: all ranks gather it, rank 0 writes it, at the best interval."""

import time
from collections.abc import Callable, Iterator, Mapping

import torch

from dist_seg.checkpoint.state import CheckpointMeta, SnapshotBuffers, TrainingState
from dist_seg.checkpoint.writer import CheckpointWriter
from dist_seg.config.load import to_tree
from dist_seg.config.schema import Config
from dist_seg.distributed.collectives import broadcast_json, raise_if_any
from dist_seg.distributed.position import HERE
from dist_seg.distributed.world import World
from dist_seg.engine.build import Trainee
from dist_seg.engine.checkpoint_interval import OptimalInterval
from dist_seg.errors import CheckpointError
from dist_seg.telemetry.events import CheckpointIntervalChosen, Event


class Saver:
    """Saves the state of what is trained; every rank has one, and rank 0's alone has a writer.

    What fails in writing is kept in `failure`, to be raised once every rank knows of it, or only told where
    `checkpoint.on_error` says so: the next save tries again.
    """

    def __init__(
        self,
        *,
        config: Config,
        world: World,
        trainee: Trainee,
        writer: CheckpointWriter | None,
        manifest_meta: Mapping[str, object],
        emit: Callable[[Event], None],
    ) -> None:
        self._config, self._world, self._progress = config, world, trainee.progress
        self._strategy, self._ema = trainee.strategy, trainee.ema
        self._writer, self._manifest_meta, self._emit = writer, manifest_meta, emit
        kept = config.checkpoint
        self._optimal = OptimalInterval(kept.mtbf_s) if kept.interval_steps == "auto" and writer is not None else None
        self._failure: CheckpointError | None = None

    @property
    def failure(self) -> CheckpointError | None:
        """The error that must end the run; only on rank 0."""
        return self._failure

    @property
    def unsaved(self) -> CheckpointError | None:
        """Why the newest state is in no checkpoint, if it is in none; only on rank 0."""
        return self._failure or (self._writer.failure if self._writer is not None else None)

    @property
    def is_writing(self) -> bool:
        """Whether this rank is writing a checkpoint."""
        return self._writer is not None and self._writer.is_writing

    @property
    def is_wanted(self) -> bool:
        """Whether this rank wants a save after the next step, with `checkpoint.interval_steps: auto`."""
        return self._optimal is not None and self._optimal.is_due()

    def save(self) -> None:
        """Writes the state in the background. A collective, as the engine may have to gather the state."""
        HERE.at("checkpoint", self._progress.step)
        taken = False

        def take(buffers: SnapshotBuffers) -> TrainingState:
            nonlocal taken
            taken = True
            return self._state(buffers)

        begin = time.perf_counter()
        self._with_writer(lambda writer: writer.save(take))
        if self._optimal is not None:
            self._optimal.saved(stall_s=time.perf_counter() - begin)
        if not taken:  # This rank does not write, or its writer has failed.
            for _, tensors in self._state_parts():
                for _ in tensors:
                    pass

    def save_last(self) -> None:
        """Writes a checkpoint of this step and waits for it, or raises CheckpointError. A collective."""
        if broadcast_json(self._writer.last_step if self._writer else None) != self._progress.step:
            self.save()
        self.wait()
        raise_if_any(self.unsaved)

    def poll(self) -> None:
        """Handles a save that has ended, without waiting."""
        self._with_writer(CheckpointWriter.poll)

    def wait(self) -> None:
        """Waits for the current save."""
        self._with_writer(CheckpointWriter.wait)

    def record_score(self, step: int, score: float) -> None:
        """Keeps the score of a step's weights beside its checkpoint."""
        self._with_writer(lambda writer: writer.record_score(step, score))

    def step_done(self, step_s: float, *, writing: bool) -> None:
        """Measures the cost of saves for `checkpoint.interval_steps: auto`. writing: a save was written meanwhile."""
        if self._optimal is None or not self._optimal.step_done(step_s, writing=writing):
            return
        chosen, step = self._optimal.chosen, self._progress.step
        assert chosen is not None
        self._emit(CheckpointIntervalChosen(step=step, interval_s=chosen.interval_s, cost_s=chosen.cost_s))

    def _with_writer(self, work: Callable[[CheckpointWriter], object]) -> None:
        if self._writer is None:
            return
        try:
            work(self._writer)
        except CheckpointError as error:
            if self._config.checkpoint.on_error == "stop":
                # Keep the first error, which is the cause of later ones.
                self._failure = self._failure or error

    def _state(self, buffers: SnapshotBuffers) -> TrainingState:
        """A copy of the whole training state for a checkpoint, in the memory of `buffers`.

        A collective (`_state_parts`).
        """
        parts = {part: buffers.snapshot(part, tensors) for part, tensors in self._state_parts()}
        progress, loss_scale = self._progress, self._strategy.loss_scale
        return TrainingState(
            meta=CheckpointMeta(
                step=progress.step,
                config=to_tree(self._config),
                manifest=self._manifest_meta,
                world_size=self._world.size,
                bad_samples=dict(progress.bad_samples),
                bad_shards=dict(progress.bad_shards),
                nonfinite_in_a_row=progress.nonfinite_in_a_row,
                loss_scale=loss_scale.value,
                loss_scale_good_steps=loss_scale.good_steps,
                origin=progress.origin,
            ),
            **parts,
        )

    def _state_parts(self) -> Iterator[tuple[str, Iterator[tuple[str, torch.Tensor]]]]:
        """The parts of a checkpoint, each as names with whole tensors.

        A collective: every rank must iterate over everything.
        """
        strategy = self._strategy
        yield "model", strategy.whole(strategy.held())
        yield "ema", strategy.whole(self._ema.averages if self._ema is not None else {})
        yield "optimizer", strategy.optimizer_state()
