"""The options of `dist-seg merge`, `index`, `verify` and `inspect`: what is done with packed data."""

import argparse
from pathlib import Path

from dist_seg.cli.options import Commands, at_least_one, command


def add_data(commands: Commands) -> None:
    """`merge`, `index`, `verify` and `inspect`."""
    _add_merge(commands)
    _add_index(commands)
    _add_verify(commands)
    _add_inspect(commands)


_MERGE_DETAILS = """\
parts keep the names of their shards: the result is byte for byte what one machine would have packed. Shards of data
sets are numbered anew. Nothing is deleted: OUT gets hard links, or copies on another file system, and the merged
folders may go afterwards
"""


def _add_merge(commands: Commands) -> None:
    parser = command(
        commands, "merge", "merge the parts of a data set, or data sets of the same classes", _MERGE_DETAILS
    )
    parser.add_argument("out", metavar="OUT", help="new folder for the merged data set")
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="packed parts, or data sets (default: the parts that lie in OUT)"
    )
    parser.set_defaults(run=_run_merge)


def _run_merge(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.merge import run_merge

    return run_merge(options)


_INDEX_DETAILS = """\
a sample is KEY.jpg, .jpeg or .png with KEY.seg.png, an 8-bit grey PNG of class ids, as the webdataset library groups
them. Written are manifest.json, index.dist-seg.json, and beside each tar .idx and .samples; the tars are only read.
Splits go by the names of tars and folders (train, val, test), classes by --classes or a classes.txt in FOLDER, else by
the masks
"""


def _add_index(commands: Commands) -> None:
    parser = command(
        commands, "index", "make WebDataset tars that others wrote a data set, as they lie", _INDEX_DETAILS
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder that holds the tars (sub-folders too)")
    contents = parser.add_argument_group("contents")
    contents.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names, one a line, in the order of the ids; `11 void`"
    )
    contents.add_argument("--ignore-index", type=int, metavar="N", help="number of pixels that do not count (255)")
    contents.add_argument(
        "--split", action="append", default=[], metavar="NAME=GLOB", help="tars of a split, such as train='tr-*.tar'"
    )
    contents.add_argument(
        "--image-suffix", action="append", metavar="TEXT", help="of the images (jpg, jpeg, png); may be repeated"
    )
    contents.add_argument("--mask-suffix", default="seg.png", metavar="TEXT", help="of the masks (%(default)s)")
    contents.add_argument(
        "--workers", type=at_least_one, default=None, metavar="N", help="threads (default: the cores)"
    )
    faults = parser.add_argument_group("faults")
    faults.add_argument(
        "--skip-bad", action="store_true", help="do not list samples that cannot be used, and count them"
    )
    faults.add_argument(
        "--max-pixels", type=at_least_one, default=None, metavar="N", help="refuse images and masks with more pixels"
    )
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
looked for: copies of images (re-encoded, scaled, cropped, mirrored) and frames of one video across splits and inside
one, masks that are shifted, turned or of another image, masks with nothing in them, classes that a split lacks or one
sample alone has, images unlike the rest, and of instances specks, slivers, objects that are there twice, and boxes and
areas that contradict the masks

exit codes: 0 done, 1 with --strict when something is worse than a note, 2 something to mend in the call or the data
"""


def _add_inspect(commands: Commands) -> None:
    summary = "count classes and pixels, find leaks and faulty masks, and draw contact sheets"
    parser = command(commands, "inspect", summary, _INSPECT_DETAILS)
    parser.add_argument("shards", metavar="SHARDS", help="folder or URL that holds manifest.json")
    parser.add_argument("--split", default=None, metavar="NAME", help="one split only, in all that follows (all)")
    looking = parser.add_argument_group("looking for trouble")
    looking.add_argument(
        "--look",
        type=int,
        default=100_000,
        metavar="N",
        help="samples of each split to look at, evenly spread; 0: counts alone, nothing is decoded (%(default)s)",
    )
    looking.add_argument("--workers", type=int, default=None, metavar="N", help="processes (one for each core)")
    looking.add_argument(
        "--max-pixels",
        type=at_least_one,
        default=None,
        metavar="N",
        help="look at no images with more pixels, and name them (178956970)",
    )
    looking.add_argument("--strict", action="store_true", help="exit 1 when something is worse than a note")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=Path, default=Path("contact_sheet.png"), metavar="FILE", help="contact sheet (%(default)s)"
    )
    output.add_argument(
        "--samples", type=int, default=16, metavar="N", help="images of each split on the sheet (%(default)s)"
    )
    output.add_argument(
        "--suspects", type=Path, default=None, metavar="FILE", help="sheet of what was found (suspects.png beside it)"
    )
    output.add_argument(
        "--json", type=Path, default=None, metavar="FILE", help="write counts and findings as JSON, too"
    )
    parser.set_defaults(run=_run_inspect)


def _run_inspect(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.inspect import run_inspect

    return run_inspect(options)
