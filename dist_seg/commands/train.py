"""`dist-seg train`: from configuration files and overrides to a trained, scored and reported run."""

import dataclasses

from dist_seg.config.load import load_config, to_yaml
from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.watchdog import GROUP_MARGIN_S, watched
from dist_seg.distributed.world import detect_world, set_threads
from dist_seg.engine.stop import StopSignal
from dist_seg.runs.folder import run_dir_of
from dist_seg.runtime.memory import keep_freed_memory
from dist_seg.runtime.startup import STARTUP
from dist_seg.training.prepare import TrainOptions, prepare
from dist_seg.training.session import run_session


def train(options: TrainOptions, process_started: float) -> int:
    """Runs the command on this rank; returns the exit code."""
    STARTUP.done("imports")
    keep_freed_memory()
    config = load_config(options.files, options.overrides)
    if options.print_config and not config.data.location:
        print(to_yaml(config), end="")
        return 0
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(run_dir_of(config))))
    world = detect_world()
    num_threads = set_threads(world, config.train.num_threads)
    timeout_s = config.train.timeout_s
    STARTUP.done("settings")
    with (
        StopSignal() as stop,
        process_group(world, timeout_s + GROUP_MARGIN_S, single=config.engine.name == "deepspeed") as start,
        watched(world, start, timeout_s) as watchdog,
    ):
        watchdog.check_worth_starting()
        world = dataclasses.replace(world, restarts=watchdog.restarts)
        STARTUP.done("process_group")
        prepared = prepare(config, options, world, num_threads)
        STARTUP.done("settings")
        if options.print_config or options.dry_run:
            return 0
        loader_threads = num_threads if config.data.num_threads is None else config.data.num_threads
        return run_session(prepared, world, loader_threads, stop, watchdog, process_started, fresh=options.fresh)
