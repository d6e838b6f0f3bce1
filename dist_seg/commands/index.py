"""`dist-seg index`: uses WebDataset tars in place."""

import argparse
import sys
from pathlib import Path

from dist_seg.commands.pack import print_summary
from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.formats.folder import CLASSES_NAME
from dist_seg.data.indexing.index_tars import index_tars
from dist_seg.data.indexing.rules import TarLayout
from dist_seg.data.raw.classes import read_classes
from dist_seg.data.shards.names import SPLIT_NAME
from dist_seg.errors import UserError
from dist_seg.runtime.machine import visible_cores
from dist_seg.runtime.plural import count_of
from dist_seg.runtime.progress_bar import Bar
from dist_seg.storage.object_store import is_remote


def run_index(options: argparse.Namespace) -> int:
    """Run the command."""
    if is_remote(options.folder):
        raise UserError(
            f"{options.folder}: index takes a local folder, because it writes files beside the tars; index a copy, "
            "then copy manifest.json and the .idx and .samples files to the tars"
        )
    root = Path(options.folder)
    classes: Path | None = options.classes
    if classes is None and (root / CLASSES_NAME).is_file():
        classes = root / CLASSES_NAME
    if classes:
        print(f"classes from {classes}")
    layout = TarLayout(
        classes=read_classes(classes) if classes else None,
        ignore_index=options.ignore_index,
        image_suffixes=tuple(options.image_suffix or TarLayout.image_suffixes),
        mask_suffix=options.mask_suffix,
        splits=_patterns(options.split),
    )
    with Bar("index") as bar:
        result = index_tars(
            root,
            layout,
            skip_bad=options.skip_bad,
            max_pixels=options.max_pixels or MAX_PIXELS,
            workers=options.workers or visible_cores(),
            progress=bar.show,
        )
    for refusal in result.skipped:
        print(f"left out: {refusal}", file=sys.stderr)
    for note in result.notes:
        print(note)
    print_summary(str(root), result.manifest)
    if result.kept_tars:
        print(f"  {count_of(result.kept_tars, 'tar')} {'was' if result.kept_tars == 1 else 'were'} indexed already")
    return 0


def _patterns(texts: list[str]) -> dict[str, str]:
    """Parse `NAME=GLOB` texts: the pattern of each split."""
    patterns: dict[str, str] = {}
    for text in texts:
        name, sign, pattern = text.partition("=")
        if not sign or not SPLIT_NAME.fullmatch(name) or not pattern or name in patterns:
            raise UserError(f"--split {text}: write it as NAME=GLOB, each name once, such as train='shard-*.tar'")
        patterns[name] = pattern
    return patterns
