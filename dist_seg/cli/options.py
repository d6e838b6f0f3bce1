"""Helpers for the parsers of all commands."""

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def command(commands: Commands, name: str, summary: str, details: str = "") -> argparse.ArgumentParser:
    """A sub-command whose help begins with its summary."""
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def at_least_one(text: str) -> int:
    """The value of an option that is a count. argparse puts the option's name before the error's text."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number of at least 1")
    return number


def add_workers(group: argparse._ArgumentGroup, text: str) -> None:
    """`--workers`, which is None unless given."""
    group.add_argument("--workers", type=at_least_one, default=None, metavar="N", help=text)


def add_faults(parser: argparse.ArgumentParser, skip_bad: str) -> None:
    """What to do about samples that cannot be used. skip_bad: the help of `--skip-bad`."""
    faults = parser.add_argument_group("faults")
    faults.add_argument("--skip-bad", action="store_true", help=skip_bad)
    faults.add_argument(
        "--max-pixels",
        type=at_least_one,
        default=None,
        metavar="N",
        help="refuse images and masks with more than N pixels (default: 178956970)",
    )
