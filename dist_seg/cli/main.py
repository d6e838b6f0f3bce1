"""The command line. Nothing heavy is imported before a command runs, so --help answers at once."""

import argparse
import io
import logging
import sys
from collections.abc import Callable, Sequence

from dist_seg import __version__
from dist_seg.cli.data import add_data
from dist_seg.cli.pack import add_pack
from dist_seg.cli.run import add_run
from dist_seg.cli.train import add_training
from dist_seg.errors import EXIT_FAULT, EXIT_PREEMPTED, ConfigError, RunFailedError, UserError
from dist_seg.runtime.launched import LaunchedRank, launched_rank


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0 success, 1 fault, 2 user's error, 143 preempted."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    options = _parse(argv)
    launched = launched_rank()
    _set_up_logging(launched)
    if isinstance(sys.stdout, io.TextIOWrapper):  # File names that are not UTF-8 are printed as on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    if "" not in sys.path:  # For the user's modules in the working directory; last, so they shadow nothing.
        sys.path.append("")
    run: Callable[[argparse.Namespace, list[str]], int] = options.run
    try:
        return run(options, argv)
    except (UserError, RunFailedError) as error:
        _tell(error, launched)
        return error.exit_code
    except KeyboardInterrupt:
        print("dist-seg: stopped by Ctrl-C; run the same command to resume or start again", file=sys.stderr)
        return EXIT_PREEMPTED
    except BrokenPipeError:
        return EXIT_FAULT


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser()
    options, rest = parser.parse_known_args(argv)
    # argparse takes positionals only in one piece: of `train a.yaml --nproc 2 optim.lr=0.1` it leaves the last one.
    strays = [text for text in rest if text.startswith("-") or not hasattr(options, "settings")]
    if strays:
        parser.error(f"unrecognized arguments: {' '.join(strays)}")
    if rest:
        options.settings = [*options.settings, *rest]
    return options


def _tell(error: UserError | RunFailedError, launched: LaunchedRank | None) -> None:
    """Prints an error. If several ranks raise the same one, only the first of them prints it."""
    rank = launched.rank if launched is not None else 0
    # All ranks of a machine read the same configuration, so its first rank prints the error.
    is_of_machine = isinstance(error, ConfigError) and launched is not None and launched.local_rank != 0
    if rank == 0 or not (is_of_machine or error.shared):
        print(f"dist-seg: {'' if rank == 0 else f'rank {rank}: '}{error}", file=sys.stderr)


def _set_up_logging(launched: LaunchedRank | None) -> None:
    prefix = f"[rank {launched.rank}] " if launched is not None and launched.world_size != 1 else ""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {prefix}%(message)s", datefmt="%H:%M:%S")
    for name in ("timm", "matplotlib", "PIL", "torch"):
        logging.getLogger(name).setLevel(logging.WARNING)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands and their options."""
    parser = argparse.ArgumentParser(prog="dist-seg", description="Train image segmentation from packed shards.")
    parser.add_argument("--version", action="version", version=f"dist-seg {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_pack(commands)
    add_data(commands)
    add_training(commands)
    add_run(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
