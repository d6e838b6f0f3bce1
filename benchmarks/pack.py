"""What does packing cost, compared with a plain `tar` of the files and with decoding every image once?

    python benchmarks/pack.py ../shared/data/camvid [--rounds 7] [--workers 2]      # about four minutes

Packing is `dist_seg.data.packing.pack` of the CamVid layout with all its checks: it decodes every image and mask,
checks and counts class ids, encodes masks, writes checksums and indexes, and syncs files to the disk. The peers are the
work that nobody can avoid: `tar` of the same files into one file, also synced, and decoding every image and mask (or
only the images) once with the same library (Pillow), in one process or in as many as packing uses, which import nothing
but Pillow. The time to start their processes counts for all. They take turns, so that other work on the machine affects
all of them. A ratio is computed within one round; median and range of the rounds are printed. Core seconds are over all
processes.

Also prints where packing's time goes: milliseconds of one core per sample, for each of its parts.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from dist_seg.data.codecs.class_ids import checked_class_ids, encode_class_ids
from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.codecs.png import value_counts
from dist_seg.data.formats.camvid import CamvidSource
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.packing.sample import encode_sample
from dist_seg.data.raw.images import check_image, read_mask
from dist_seg.data.raw.listing import read_pair
from dist_seg.data.raw.source import SampleRef
from dist_seg.data.shards.sidecar import crc32c

_SHARD_BYTES = 8 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid", type=Path, help="folder that holds train/ and trainannot/")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    options = parser.parse_args()
    source = CamvidSource(root=options.camvid)
    samples = source.samples()
    images = [sample.where for sample in samples]
    pictures = images + [sample.mask_where for sample in samples]
    _decode(pictures, options.workers)  # puts the files into the page cache for all
    rounds: list[dict[str, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        turns: dict[str, Callable[[], None]] = {"pack": lambda: _pack(source, target, options.workers)}
        for what, files in (("every picture", pictures), ("images only", images)):
            for count in (options.workers, 1):
                name = f"tar and {what}, {count} process{'es' * (count > 1)}"
                turns[name] = partial(_peer, options.camvid, files, target, count)
        for number in range(options.rounds):
            first = number % len(turns)
            spent = {name: _spent(turns[name]) for name in [*list(turns)[first:], *list(turns)[:first]]}
            rounds.append(spent)
            print(f"  round {number + 1}: " + ", ".join(f"{spent[name][0]:.2f}" for name in turns) + " s")
    print(
        f"{len(samples)} samples, {options.workers} workers, {_core_s(rounds, 'pack'):.2f} core seconds. Packing takes,"
    )
    print("as a multiple of")
    ratios = {name: [spent["pack"][0] / spent[name][0] for spent in rounds] for name in list(turns)[1:]}
    for name, of_rounds in ratios.items():
        print(
            f"  {name:36s} {statistics.median(of_rounds):.2f} ({min(of_rounds):.2f} to {max(of_rounds):.2f}); "
            f"{_core_s(rounds, name):.2f} core seconds"
        )
    parts = _parts(source, samples[:200])
    print("milliseconds of one core per sample: " + ", ".join(f"{name} {ms:.2f}" for name, ms in parts.items()))
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds, "ratios": ratios, "parts_ms": parts}, indent=1) + "\n")


def _pack(source: CamvidSource, folder: Path, workers: int) -> None:
    pack(source, folder / "packed", PackOptions(workers=workers, shard_bytes=_SHARD_BYTES))
    shutil.rmtree(folder / "packed")


def _peer(root: Path, pictures: list[str], folder: Path, workers: int) -> None:
    target = folder / "plain.tar"
    subprocess.run(["tar", "-C", str(root), "-cf", str(target), "."], check=True)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    _decode(pictures, workers)
    target.unlink()


def _decode(pictures: list[str], workers: int) -> None:
    command = [sys.executable, str(Path(__file__).with_name("decode_files.py"))]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(workers)]
    for number, process in enumerate(processes):
        assert process.stdin is not None
        process.stdin.write("\n".join(pictures[number::workers]) + "\n")
        process.stdin.close()
    for process in processes:
        if process.wait():
            raise SystemExit("the peer failed")


def _spent(work: Callable[[], None]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds over all processes."""
    begin, core_begin = time.perf_counter(), _core_seconds()
    work()
    return time.perf_counter() - begin, _core_seconds() - core_begin


def _core_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _core_s(rounds: list[dict[str, tuple[float, float]]], name: str) -> float:
    return statistics.median(spent[name][1] for spent in rounds)


def _parts(source: CamvidSource, samples: list[SampleRef]) -> dict[str, float]:
    """The cost of each step of packing a sample."""
    pairs = [read_pair(sample) for sample in samples]
    masks = [source.load(sample).mask for sample in samples]
    ids = [checked_class_ids(mask, "", len(source.class_names), source.ignore_index) for mask in masks]
    encoded = [encode_class_ids(mask) for mask in ids]
    works: dict[str, Callable[[int], object]] = {
        "image decoded and checked": lambda i: check_image(pairs[i][0], "", MAX_PIXELS),
        "mask decoded": lambda i: read_mask(pairs[i][1], "", MAX_PIXELS),
        "ids checked": lambda i: checked_class_ids(masks[i], "", len(source.class_names), source.ignore_index),
        "pixels counted": lambda i: value_counts(ids[i]),
        "mask encoded": lambda i: encode_class_ids(ids[i]),
        "the same by Pillow": lambda i: Image.fromarray(ids[i]).save(io.BytesIO(), "PNG", compress_level=6),
        "checksums": lambda i: (crc32c(pairs[i][0]), crc32c(encoded[i])),
        "all": lambda i: encode_sample(samples[i], source, MAX_PIXELS),
    }
    costs = {}
    for name, work in works.items():
        begin = time.process_time()
        for i in range(len(samples)):
            work(i)
        costs[name] = 1e3 * (time.process_time() - begin) / len(samples)
    return costs


if __name__ == "__main__":
    main()
