"""`dist-seg train`: from configuration files and overrides to a trained, scored and reported run."""

from collections.abc import Sequence
from pathlib import Path

from dist_seg.config.load import load_config, to_yaml
from dist_seg.runtime.memory import keep_freed_memory
from dist_seg.runtime.startup import StartUp
from dist_seg.training.prepare import StartOptions
from dist_seg.training.session import run_session


def train(files: Sequence[Path], overrides: Sequence[str], options: StartOptions, startup: StartUp) -> int:
    """Runs the command on this rank; returns the exit code."""
    startup.done("imports")
    keep_freed_memory()
    config = load_config(files, overrides)
    if options.print_config and not config.data.location:
        print(to_yaml(config), end="")
        return 0
    return run_session(config, options, startup)
