"""`dist-seg report`: the result of a run as one HTML page, with its worst and best pictures."""

import argparse

from dist_seg.distributed.world import detect_world
from dist_seg.report.render import render_report
from dist_seg.runs.folder import open_run_folder


def run_report(options: argparse.Namespace) -> int:
    """The command."""
    print(render_report(open_run_folder(options.run_dir, must_exist=True), detect_world()))
    return 0
