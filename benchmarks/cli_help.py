"""How long does `dist-seg COMMAND --help` take as a whole process, compared with a Python that does nothing?

python -m benchmarks.cli_help [--runs 7]
"""

import argparse
import statistics
import subprocess
import sys
import time

_COMMANDS = ("", "pack", "pack folder", "verify", "inspect", "train", "eval", "predict", "report", "audit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    nothing: list[float] = []
    by_command: dict[str, list[float]] = {command: [] for command in _COMMANDS}
    for _ in range(options.runs):
        nothing.append(_seconds([sys.executable, "-c", "pass"]))
        for command, seconds in by_command.items():
            seconds.append(_seconds([sys.executable, "-m", "dist_seg", *command.split(), "--help"]))
    print(f"{'python -c pass':28s} {_figures(nothing)}")
    for command, seconds in by_command.items():
        print(f"{f'dist-seg {command} --help':28s} {_figures(seconds)}")


def _seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def _figures(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds):.3f} s  ({min(seconds):.3f} to {max(seconds):.3f})"


if __name__ == "__main__":
    main()
