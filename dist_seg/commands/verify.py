"""`dist-seg verify`: compares every byte of a packed data set with its manifest."""

import argparse

from dist_seg.data.shards.verify import verify
from dist_seg.runtime.machine import visible_cores
from dist_seg.runtime.plural import count_of
from dist_seg.runtime.progress_bar import Bar


def run_verify(options: argparse.Namespace) -> int:
    """Run the command. Returns 1 if anything differs from the manifest."""
    with Bar("verify") as bar:
        problems = verify(options.shards, workers=visible_cores(), progress=bar.show)
    for problem in problems:
        print(problem)
    outcome = count_of(len(problems), "problem") if problems else "as it was packed"
    print(f"{options.shards}: {outcome}")
    return 1 if problems else 0
