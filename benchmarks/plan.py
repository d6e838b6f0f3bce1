"""What does the plan of a very large data set cost a rank: memory, and the time to find the batch of any step?

    python benchmarks/plan.py [--samples 10000000] [--shards 10000] [--classes 19] [--by-class]

The peer in the same run is the usual way: a shuffled list of all sample numbers (numpy's permutation, as in a
DistributedSampler), made again for every epoch.
"""

import argparse
import json
import random
import resource
import statistics
import time
from pathlib import Path

import numpy as np

from dist_seg.data.plan.mixed_plan import MixedPart, MixedPlan
from dist_seg.data.plan.plan import Plan, TrainPlan
from dist_seg.data.shards.manifest import Manifest, ShardInfo, Split
from dist_seg.data.shards.manifest_parsing import parse_manifest

_GLOBAL_BATCH, _MICRO_BATCH, _SEEKS = 256, 8, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument(
        "--by-class", action="store_true", help="all classes equally often, each in half of the samples"
    )
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    options = parser.parse_args()
    text = _manifest_json(options.samples, options.shards, options.classes, by_class=options.by_class)
    before = _resident_bytes()
    manifest = parse_manifest(text, "benchmark")
    plan = _plan(manifest, by_class=options.by_class)
    seeks = [_seek_s(plan, step) for step in _steps(plan)]
    added = _resident_bytes() - before
    peer_s, peer_bytes = _peer(options.samples)
    figures = {
        "samples": options.samples,
        "shards": options.shards,
        "added_mib": added / 2**20,
        "seek_ms_median": statistics.median(seeks) * 1e3,
        "seek_ms_99th": statistics.quantiles(seeks, n=100)[98] * 1e3,
        "seek_ms_max": max(seeks) * 1e3,
        "peer_epoch_ms": peer_s * 1e3,
        "peer_mib": peer_bytes / 2**20,
    }
    kind = f", by {options.classes} classes" if options.by_class else ""
    print(f"plan of {options.samples} samples in {options.shards} shards{kind}, global batch {_GLOBAL_BATCH}")
    print(f"  manifest.json                     {len(text) / 1e6:8.1f} MB")
    print(
        f"  memory added (manifest and plan)  {figures['added_mib']:8.1f} MiB   (a list of all samples: "
        f"{figures['peer_mib']:.1f} MiB)"
    )
    print(
        f"  a random step's whole batch       {figures['seek_ms_median']:8.3f} ms median, "
        f"{figures['seek_ms_99th']:.3f} ms 99th percentile, {figures['seek_ms_max']:.3f} ms worst of {_SEEKS}, "
        "over 100 epochs"
    )
    print(f"  (shuffling a list of all samples  {figures['peer_epoch_ms']:8.1f} ms per epoch)")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _plan(manifest: Manifest, *, by_class: bool) -> Plan:
    shards = manifest.split("train").shards
    samples = [shard.samples for shard in shards]
    if not by_class:
        return TrainPlan(samples, seed=0, global_batch=_GLOBAL_BATCH, micro_batch=_MICRO_BATCH, shuffle_window=8192)
    holders = np.array([np.array(shard.class_samples, np.uint16) for shard in shards])
    return MixedPlan(
        [
            MixedPart(name=name, shard_samples=holders[:, i], weight=1.0, holding=i)
            for i, name in enumerate(manifest.class_names)
        ],
        samples,
        seed=0,
        global_batch=_GLOBAL_BATCH,
        micro_batch=_MICRO_BATCH,
        shuffle_window=8192,
    )


def _manifest_json(samples: int, shards: int, classes: int, *, by_class: bool) -> bytes:
    counts = [samples // shards + (i < samples % shards) for i in range(shards)]
    split = Split(
        shards=tuple(
            ShardInfo(
                name=f"train-{i:06d}.tar",
                bytes=100_000_000,
                sha256=f"{i:064x}",
                samples=count,
                index_sha256=f"{i:064x}",
                sidecar_sha256=f"{i:064x}",
                class_samples=(count // 2,) * classes if by_class else None,
            )
            for i, count in enumerate(counts)
        ),
        class_pixels=(1,) * classes,
        ignored_pixels=0,
    )
    names = tuple(f"class_{i}" for i in range(classes))
    manifest = Manifest(class_names=names, palette=tuple((i, i, i) for i in range(classes)), splits={"train": split})
    return manifest.to_json().encode()


def _steps(plan: Plan) -> list[int]:
    choose = random.Random(0)
    return [choose.randrange(100 * plan.steps_per_epoch) for _ in range(_SEEKS)]


def _seek_s(plan: Plan, step: int) -> float:
    begin = time.perf_counter()
    plan.micro_batches_at(step, range(plan.lanes))
    return time.perf_counter() - begin


def _peer(samples: int) -> tuple[float, int]:
    begin = time.perf_counter()
    order = np.random.default_rng(0).permutation(samples)
    return time.perf_counter() - begin, order.nbytes


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
