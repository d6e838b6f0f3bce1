"""Runs a training on one rank: preparation, training, result, report and the outcome in the run folder."""

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal, cast

from dist_seg.config.schema import Config
from dist_seg.distributed.board import FirstCause
from dist_seg.distributed.collectives import gather_json, on_every_rank, on_main, raise_if_any
from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.watchdog import GROUP_MARGIN_S, Watchdog, watched
from dist_seg.distributed.world import World, detect_world, set_threads
from dist_seg.engine.run import TrainingOutcome, run_training
from dist_seg.engine.stop import StopSignal
from dist_seg.errors import EXIT_FAULT, EXIT_PREEMPTED, CheckpointError, UserError
from dist_seg.runs.folder import RunFolder, run_dir_of
from dist_seg.runs.outcome import Outcome, write_outcome, write_started
from dist_seg.runs.result import summary_line
from dist_seg.runtime.startup import StartUp
from dist_seg.telemetry.accounting import ProcessAccount
from dist_seg.telemetry.build import build_sinks
from dist_seg.telemetry.events import Event, RunEnded
from dist_seg.training.prepare import Prepared, StartOptions, prepare

_log = logging.getLogger(__name__)


def run_session(config: Config, options: StartOptions, startup: StartUp) -> int:
    """Trains on this rank, from the configuration to the report; returns the exit code. Call it on every rank."""
    config = replace(config, run=replace(config.run, dir=str(run_dir_of(config))))
    world = detect_world()
    cpu_threads = set_threads(world, config.train.num_threads)
    timeout_s = config.train.timeout_s
    startup.done("settings")
    with (
        StopSignal() as stop,
        process_group(world, timeout_s + GROUP_MARGIN_S, single=config.engine.name == "deepspeed") as start,
        watched(world, start, timeout_s) as watchdog,
    ):
        watchdog.check_worth_starting()
        world = replace(world, restarts=watchdog.restarts)
        startup.done("process_group")
        prepared = prepare(config, options, world, cpu_threads)
        startup.done("settings")
        if not options.trains:
            return 0
        session = _Session(prepared=prepared, world=world, stop=stop, watchdog=watchdog, startup=startup)
        return session.run(fresh=options.fresh)


@dataclass(frozen=True, kw_only=True)
class _Session:
    """A prepared training on one rank."""

    prepared: Prepared
    world: World
    stop: StopSignal
    watchdog: Watchdog
    startup: StartUp

    def run(self, *, fresh: bool) -> int:
        """Trains and finishes the run; returns the exit code and writes it to `outcome.json`."""
        folder, world, watchdog = self.prepared.folder, self.world, self.watchdog
        with ExitStack() as stack:
            on_main(lambda: stack.enter_context(folder.locked()))
            on_main(lambda: write_started(folder, self.startup.process_started))
            try:
                trained = self._train_and_log()
                code = _finish(self.prepared, trained, world) if trained.complete else EXIT_PREEMPTED
            except BaseException as error:
                cause = watchdog.cause_of(error)
                if watchdog.reports_for_all(cause):
                    code = error.exit_code if cause is None and isinstance(error, UserError) else EXIT_FAULT
                    _write_failure(folder, _reason(error, watchdog), code)
                raise
            if world.is_main:
                ended: Literal["complete", "preempted"] = "complete" if trained.complete else "preempted"
                write_outcome(folder, Outcome(outcome=ended, exit_code=code, step=trained.step))
        if not trained.complete and world.is_main:
            print(f"stopped at step {trained.step}; {_how_to_resume(self.prepared.config, fresh)}", file=sys.stderr)
        return code

    def _train_and_log(self) -> TrainingOutcome:
        config, folder, world, watchdog = self.prepared.config, self.prepared.folder, self.world, self.watchdog
        telemetry = on_every_rank(
            lambda: build_sinks(config.telemetry, folder.path, rank=world.rank, local_rank=world.local_rank)
        )
        ports = gather_json(telemetry.prometheus_port)
        on_main(lambda: str(folder.write_json("ports.json", {"prometheus": ports})))
        account, outcome, ended, reason = ProcessAccount(), None, "failed", ""

        def emit(event: Event) -> None:
            account.emit(event)
            telemetry.sink.emit(event)

        def end(step: int, outcome: str, reason: str) -> None:
            wall_s = time.time() - self.startup.process_started
            seconds = account.seconds(wall_s)
            telemetry.sink.emit(RunEnded(step=step, outcome=outcome, reason=reason, wall_s=wall_s, seconds=seconds))
            telemetry.sink.close()

        def last_words(cause: FirstCause) -> None:
            if watchdog.reports_for_all(cause):
                _write_failure(folder, cause.message, EXIT_FAULT)
            end(-1, "failed", cause.message)

        watchdog.last_words = last_words
        try:
            outcome = run_training(
                config,
                world=world,
                folder=folder,
                view=self.prepared.view,
                emit=emit,
                stop=self.stop,
                startup=self.startup,
            )
            ended = "complete" if outcome.complete else "preempted"
            if outcome.unsaved is not None:
                ended, reason = "failed", str(outcome.unsaved)
        except BaseException as error:
            reason = _reason(error, watchdog)
            raise
        finally:
            end(outcome.step if outcome else -1, ended, reason)
        return outcome


def _newest_step(folder: RunFolder) -> int:
    """The newest step with a checkpoint; -1 if there is none or the storage cannot be read."""
    try:
        return max(folder.checkpoints.steps(), default=-1)
    except CheckpointError as error:  # An unreachable storage must not hide why the run ended.
        _log.error("%s", error)
        return -1


def _reason(error: BaseException, watchdog: Watchdog) -> str:
    """Why the run has failed: this rank's own error, or the error of another rank that caused it."""
    cause = watchdog.cause_of(error)
    return f"{type(error).__name__}: {error}" if cause is None else cause.message


def _write_failure(folder: RunFolder, reason: str, code: int) -> None:
    write_outcome(folder, Outcome(outcome="failed", exit_code=code, step=_newest_step(folder), reason=reason))


def _how_to_resume(config: Config, fresh: bool) -> str:
    start_over = ["--fresh"] * fresh + ["checkpoint.resume=none"] * (config.checkpoint.resume == "none")
    return f"run the same command{' without ' + ' and '.join(start_over) if start_over else ''} to resume"


def _drawn(folder: RunFolder, world: World) -> str:
    """Writes the report and returns lines that say where it is. A full disk does not undo the run."""
    from dist_seg.report.render import render_report  # Its plotting library takes seconds to import.

    try:
        report = render_report(folder, world)
    except UserError as error:
        _log.error("%s. The run is complete; draw its report with `dist-seg report %s`", error, folder.path)
        return ""
    return f"report      {report}\npictures    {folder.pictures_file}\n"


def _finish(prepared: Prepared, outcome: TrainingOutcome, world: World) -> int:
    """Writes the result and the report of a complete run; returns the exit code.

    Raises CheckpointError if the last step is in no checkpoint, once the result is written.
    """
    config, folder = prepared.config, prepared.folder
    assert outcome.result is not None
    document = dict(outcome.result.document)
    if world.is_main:
        document |= {
            "checkpoint": {"step": outcome.step, "weights": "ema" if config.train.ema_decay else "raw"},
            "manifest_hash": prepared.view.hash,
            "split": config.data.scored_split,
        }
        folder.write_json("result.json", document)
        saved = "" if outcome.unsaved else f"checkpoint  {folder.checkpoints.path(outcome.step)}\n"
        print(f"{summary_line(document)}\n{_drawn(folder, world)}{saved}result      {folder.result_file}")
    raise_if_any(outcome.unsaved)
    left_out = cast(Sequence[object], document["left_out"])
    return 1 if left_out and not config.eval.allow_bad_samples else 0
