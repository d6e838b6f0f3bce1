"""`dist-seg inspect`: counts, leaks, faulty masks and contact sheets of a data set."""

import argparse
import json
from itertools import combinations
from pathlib import Path

from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.inspection.findings import Severity
from dist_seg.data.inspection.sheets import save_suspects
from dist_seg.data.inspection.summary import SHEET_SUFFIXES, check_output, inspect
from dist_seg.data.inspection.trouble import Trouble, find_trouble
from dist_seg.data.shards.opened import OpenedData, open_data
from dist_seg.errors import StorageError, UserError
from dist_seg.runtime.machine import visible_cores
from dist_seg.runtime.progress_bar import Bar


def run_inspect(options: argparse.Namespace) -> int:
    """Run the command. Returns 1 for a finding worse than a note, with `--strict`."""
    suspects: Path = options.suspects or options.out.with_name("suspects.png")
    _check(options, suspects)
    data = open_data(options.shards, max_pixels=options.max_pixels or MAX_PIXELS)
    with Bar("inspect") as bar:
        inspection = inspect(
            data, split=options.split, out_png=options.out, num_images=options.samples, progress=bar.show
        )
    trouble = _find_trouble(data, options)
    print(f"{inspection.to_text()}\n{trouble.to_text()}")
    print(f"contact sheet: {options.out}")
    if save_suspects(data, trouble, suspects):
        print(f"suspects: {suspects}")
    elif suspects.exists():
        print(f"suspects: none to show; {suspects} is from an earlier run")
    if options.json is not None:
        document = {**json.loads(inspection.to_json()), **trouble.to_json()}
        try:
            options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
        except OSError as error:
            raise StorageError(f"{options.json}: cannot be written: {error.strerror or error}") from error
    return 1 if options.strict and trouble.worst is not None and trouble.worst > Severity.NOTE else 0


def _check(options: argparse.Namespace, suspects: Path) -> None:
    """Raises `UserError` for impossible options, before anything is read."""
    if options.look < 0:
        raise UserError(f"{options.look} samples to look at; give 0 or more (--look)")
    if options.workers is not None and options.workers < 1:
        raise UserError(f"{options.workers} worker processes; give at least 1 (--workers)")
    if options.json is not None:
        check_output(options.json)
    check_output(suspects, SHEET_SUFFIXES)
    outputs = {"--out": options.out, "--suspects": suspects}
    if options.json is not None:
        outputs["--json"] = options.json
    for (option, path), (other, same) in combinations(outputs.items(), 2):
        if path.resolve() == same.resolve():
            raise UserError(f"{path}: named by {option} and by {other}; give each a file of its own")


def _find_trouble(data: OpenedData, options: argparse.Namespace) -> Trouble:
    with Bar("look at samples") as looking, Bar("search for copies") as searching, Bar("compare images") as comparing:

        def search(done: int, total: int) -> None:
            looking.close()
            searching.show(done, total)

        def compare(done: int, total: int) -> None:
            searching.close()
            comparing.show(done, total)

        return find_trouble(
            data,
            split=options.split,
            limit=options.look,
            workers=options.workers or visible_cores(),
            looking=looking.show,
            searching=search,
            comparing=compare,
        )
