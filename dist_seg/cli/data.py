"""The parsers of `dist-seg merge`, `index`, `verify` and `inspect`, which work on packed data."""

import argparse
from pathlib import Path

from dist_seg.cli.options import Commands, add_faults, add_workers, at_least_one, command


def add_data(commands: Commands) -> None:
    """`merge`, `index`, `verify` and `inspect`."""
    _add_merge(commands)
    _add_index(commands)
    _add_verify(commands)
    _add_inspect(commands)


_MERGE_DETAILS = """\
Shards of parts keep their names: the result is byte for byte what one machine would have packed. Shards of data sets
get new numbers. merge deletes nothing: OUT gets hard links, or copies if it is on another file system. You may delete
the merged folders afterwards.
"""


def _add_merge(commands: Commands) -> None:
    parser = command(
        commands, "merge", "merge the parts of a data set, or data sets with the same classes", _MERGE_DETAILS
    )
    parser.add_argument("out", metavar="OUT", help="new folder for the merged data set")
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="packed parts, or data sets (default: the parts inside OUT)"
    )
    parser.set_defaults(run=_run_merge)


def _run_merge(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.merge import run_merge

    return run_merge(options)


_INDEX_DETAILS = """\
A sample is KEY.jpg, .jpeg or .png with KEY.seg.png, an 8-bit grey PNG of class ids. The webdataset library groups files
in the same way. index writes manifest.json and index.dist-seg.json, and a .idx and a .samples file beside each tar. It
only reads the tars. Splits follow the names of tars and folders (train, val, test). Classes come from --classes, from
a classes.txt in FOLDER, or from the masks.
"""


def _add_index(commands: Commands) -> None:
    parser = command(commands, "index", "use existing WebDataset tars in place", _INDEX_DETAILS)
    parser.add_argument("folder", metavar="FOLDER", help="folder of the tars, searched with its sub-folders")
    contents = parser.add_argument_group("contents")
    contents.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="class names, one per line, in the order of the ids; a line `11 void` names an ignored value",
    )
    contents.add_argument("--ignore-index", type=int, metavar="N", help="mask value of ignored pixels (default: 255)")
    contents.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME=GLOB",
        help="a split and its tars, such as train='tr-*.tar'; once for each split",
    )
    contents.add_argument(
        "--image-suffix",
        action="append",
        metavar="TEXT",
        help="suffix of images; may be repeated (default: jpg, jpeg, png)",
    )
    contents.add_argument(
        "--mask-suffix", default="seg.png", metavar="TEXT", help="suffix of masks (default: %(default)s)"
    )
    add_workers(contents, "threads (default: one per core)")
    add_faults(parser, "leave unusable samples out of the index and count them")
    parser.set_defaults(run=_run_index)


def _run_index(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.index import run_index

    return run_index(options)


def _add_verify(commands: Commands) -> None:
    parser = command(commands, "verify", "check every byte of a packed data set; exit 1 if anything is wrong")
    parser.add_argument("shards", metavar="SHARDS", help="folder or URL that holds manifest.json")
    parser.set_defaults(run=_run_verify)


def _run_verify(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.verify import run_verify

    return run_verify(options)


_INSPECT_DETAILS = """\
inspect looks for
  copies of images (re-encoded, scaled, cropped, mirrored) and frames of one video, across splits and within one
  masks that are shifted, turned, empty, or belong to another image
  classes that a split lacks, or that only one sample shows
  images unlike the rest
  instances: specks, slivers, duplicate objects, and boxes and areas that contradict the masks

exit codes: 0 done; 1 a finding worse than a note, with --strict; 2 something to fix in the command or the data
"""


def _add_inspect(commands: Commands) -> None:
    summary = "count classes and pixels, find leaks and faulty masks, and draw contact sheets"
    parser = command(commands, "inspect", summary, _INSPECT_DETAILS)
    parser.add_argument("shards", metavar="SHARDS", help="folder or URL that holds manifest.json")
    parser.add_argument("--split", default=None, metavar="NAME", help="inspect this split only (default: all)")
    looking = parser.add_argument_group("looking for trouble")
    looking.add_argument(
        "--look",
        type=int,
        default=100_000,
        metavar="N",
        help="samples to look at in each split, evenly spread; 0: count only, decode nothing (default: %(default)s)",
    )
    looking.add_argument("--workers", type=int, default=None, metavar="N", help="processes (default: one per core)")
    looking.add_argument(
        "--max-pixels",
        type=at_least_one,
        default=None,
        metavar="N",
        help="name images with more than N pixels instead of looking at them (default: 178956970)",
    )
    looking.add_argument("--strict", action="store_true", help="exit 1 if a finding is worse than a note")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=Path,
        default=Path("contact_sheet.png"),
        metavar="FILE",
        help="contact sheet (default: %(default)s)",
    )
    output.add_argument(
        "--samples", type=int, default=16, metavar="N", help="images of each split on the sheet (default: %(default)s)"
    )
    output.add_argument(
        "--suspects",
        type=Path,
        default=None,
        metavar="FILE",
        help="sheet of the suspects found (default: suspects.png beside the contact sheet)",
    )
    output.add_argument(
        "--json", type=Path, default=None, metavar="FILE", help="also write the counts and findings as JSON"
    )
    parser.set_defaults(run=_run_inspect)


def _run_inspect(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.inspect import run_inspect

    return run_inspect(options)
