"""`dist-seg merge`: joins parts or data sets."""

import argparse
from pathlib import Path

from dist_seg.commands.pack import print_summary
from dist_seg.data.packing.merge import merge
from dist_seg.errors import UserError
from dist_seg.runtime.plural import count_of
from dist_seg.runtime.progress_bar import Bar
from dist_seg.storage.object_store import is_remote


def run_merge(options: argparse.Namespace) -> int:
    """Run the command."""
    for text in (options.out, *options.folders):
        if is_remote(text):
            raise UserError(
                f"{text}: merge takes local folders; copy the data here, merge it, and copy the result back"
            )
    out = Path(options.out)
    with Bar("merge") as bar:
        result = merge(out, [Path(text) for text in options.folders], progress=bar.show)
    print_summary(str(out), result.manifest)
    there = sum(len(split.shards) for split in result.manifest.splits.values()) - result.links - result.copies
    done = [(result.links, "linked"), (result.copies, "copied"), (there, "there already")]
    print("  " + ", ".join(f"{count_of(count, 'shard')} {how}" for count, how in done if count))
    print("the merged folders have not changed; you may delete them once `dist-seg verify` finds nothing wrong")
    return 0
