"""Does DALI feed a trainer faster than a well-tuned torch DataLoader, on the same cores?

    python benchmarks/loader.py ../shared/data/camvid            # about seven minutes
    python benchmarks/loader.py ../shared/data/camvid --pairs 3 --seconds 3 --hue-deg 0

All loaders read the same shards in the same order and make the same micro-batches of 288x384 crops: random scale 0.5 to
2, crop, mirror, jitter of brightness, contrast, saturation and hue, normalised float32 images with int64 targets; once
without and once with a rotation of up to 10 degrees. There are two torch peers:

- `torchvision`: what a careful user writes with torchvision's v2 functionals. Tuned: libjpeg-turbo through
  `torchvision.io`, crop before resize, everything in uint8 (its AVX2 resize), one thread per worker, persistent
  workers, whole micro-batches made by the worker and handed over as bytes, normalised on arrival. Its jitter makes four
  passes over the image, one for each `adjust_*`, and hue is the most expensive one. The target is set against this
  peer.
- `torch`: `data.loader=torch`, this project's own loader for machines without DALI. PIL decodes; the rest is the code
  that the DALI loader runs on the CPU, including the jitter as one affine map of RGB. The ratio to it therefore
  compares only the decoding: DALI's in threads with PIL's in worker processes.

So the ratio to `torchvision` is right for users who come from there, but much of it is due to cheaper jitter and
geometry, not to DALI (`--hue-deg 0` shows how much is due to hue). The ratio to `torch` is DALI's own.
"""

import argparse
import json
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, decode_png
from torchvision.transforms.v2 import InterpolationMode, functional

from benchmarks.loader_turns import JITTER, PREFETCH, Batches, Result, as_tensor, jittered, ratio, take_turns
from dist_seg.config.schema import AugmentConfig, Config, DataConfig
from dist_seg.data.formats.camvid import CamvidSource
from dist_seg.data.loading.augment import SampleTransform
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.fetch import TrainFetcher, drawn_samples
from dist_seg.data.loading.loader import train_batches
from dist_seg.data.packing.pack import pack
from dist_seg.data.plan.plan import TrainPlan
from dist_seg.data.shards.manifest import Manifest
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.view.data_view import whole_view
from dist_seg.data.view.pixel_values import IMAGENET_MEAN, IMAGENET_STD
from dist_seg.data.view.reader import ShardReader
from dist_seg.runtime.rng import generator
from dist_seg.storage.object_store import Storage, open_storage

CROP = (288, 384)
MICRO_BATCH = 8
ROTATE_DEG = 10.0
TARGETS = {"without rotation": 1.5, "with rotation": 1.4}
LOADERS = ("dali", "torchvision", "torch")

Units = Iterator[tuple[int, int]]


class TorchvisionDataset(Dataset[tuple[Tensor, Tensor]]):
    """One micro-batch per item, as bytes: images (B, 3, H, W) and masks (B, H, W)."""

    def __init__(self, fetcher: TrainFetcher, augment: AugmentConfig, ignore_index: int) -> None:
        self._fetcher, self._augment, self._ignore_index = fetcher, augment, ignore_index

    def __getitem__(self, unit: tuple[int, int]) -> tuple[Tensor, Tensor]:
        samples = drawn_samples([self._fetcher.fetch(planned) for planned in self._fetcher.planned(unit)])
        pairs = [
            self._sample(sample.encoded.image, sample.encoded.target, sample.transform, sample.encoded.key)
            for sample in samples
        ]
        return torch.stack([image for image, _ in pairs]), torch.stack([mask for _, mask in pairs])

    def _sample(self, image_bytes: bytes, mask_bytes: bytes, t: SampleTransform, key: str) -> tuple[Tensor, Tensor]:
        y, x, h, w = t.roi
        image = decode_jpeg(as_tensor(image_bytes), mode=ImageReadMode.RGB)[:, y : y + h, x : x + w]
        mask = decode_png(as_tensor(mask_bytes), mode=ImageReadMode.GRAY)[:, y : y + h, x : x + w]
        if t.warp is None:
            image = functional.resize(image, list(t.resized), antialias=True)
            mask = functional.resize(mask, list(t.resized), interpolation=InterpolationMode.NEAREST_EXACT)
            image, mask = self._padded(image, mask, t)
        else:
            image, mask = self._rotated(image, mask, key)
        if t.flip:
            image, mask = functional.horizontal_flip(image), functional.horizontal_flip(mask)
        return jittered(image, key, self._augment.hue_deg), mask[0]

    def _padded(self, image: Tensor, mask: Tensor, t: SampleTransform) -> tuple[Tensor, Tensor]:
        if t.resized == t.canvas:
            return image, mask
        top, left = t.offset
        sides = [left, top, t.canvas[1] - t.resized[1] - left, t.canvas[0] - t.resized[0] - top]
        return functional.pad(image, sides, fill=[124, 116, 104]), functional.pad(mask, sides, fill=self._ignore_index)

    def _rotated(self, image: Tensor, mask: Tensor, key: str) -> tuple[Tensor, Tensor]:
        """Resized so that the crop is covered, rotated about its centre and cropped, as users compose it."""
        angle = ROTATE_DEG * (2 * float(generator("angle", key).random()) - 1)
        # The size that covers the crop at the largest angle.
        sine, cosine = math.sin(math.radians(ROTATE_DEG)), math.cos(math.radians(ROTATE_DEG))
        size = [round(CROP[0] * cosine + CROP[1] * sine), round(CROP[1] * cosine + CROP[0] * sine)]
        image = functional.resize(image, size, antialias=True)
        mask = functional.resize(mask, size, interpolation=InterpolationMode.NEAREST_EXACT)
        image = functional.rotate(image, angle, InterpolationMode.BILINEAR, fill=[124.0, 116.0, 104.0])
        mask = functional.rotate(mask, angle, InterpolationMode.NEAREST, fill=float(self._ignore_index))
        return functional.center_crop(image, list(CROP)), functional.center_crop(mask, list(CROP))


def recipes(hue_deg: float) -> dict[str, AugmentConfig]:
    return {
        name: AugmentConfig(
            crop_height=CROP[0],
            crop_width=CROP[1],
            brightness=JITTER,
            contrast=JITTER,
            saturation=JITTER,
            hue_deg=hue_deg,
            rotate_deg=degrees,
        )
        for name, degrees in (("without rotation", 0.0), ("with rotation", ROTATE_DEG))
    }


def torchvision_batches(
    cfg: Config, manifest: Manifest, storage: Storage, plan: TrainPlan, units: Units, num_workers: int
) -> Batches:
    """The torchvision peer."""
    reader = ShardReader(whole_view(storage, manifest), cfg.data.train_split)
    fetcher = TrainFetcher(reader, plan, cfg.augment, data=cfg.data, crop=CROP, seed=cfg.train.seed)
    loader = DataLoader(
        TorchvisionDataset(fetcher, cfg.augment, manifest.ignore_index),
        sampler=units,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=max(1, math.ceil(PREFETCH / num_workers)),
        persistent_workers=True,
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD))
    for images, masks in loader:
        yield Batch(images=images.float().sub_(mean).div_(std), targets=masks.long(), keys=("",) * len(images))


def batches_of(name: str, augment: AugmentConfig, root: Path, num_threads: int) -> Batches:
    """An endless loader."""
    storage = open_storage(root)
    manifest = load_manifest(storage)
    samples = [shard.samples for shard in manifest.split("train").shards]
    plan = TrainPlan(samples, seed=0, global_batch=MICRO_BATCH, micro_batch=MICRO_BATCH, shuffle_window=8192)
    units = ((step, 0) for step in range(10**9))
    cfg = Config(augment=augment, data=DataConfig(loader="torch" if name == "torch" else "dali", prefetch=PREFETCH))
    if name == "torchvision":
        return torchvision_batches(cfg, manifest, storage, plan, units, num_threads)
    view = replace(whole_view(storage, manifest), num_threads=num_threads)
    return train_batches(cfg, view, plan, units, torch.device("cpu"))


def compare(root: Path, *, pairs: int, seconds: float, num_threads: int, hue_deg: float) -> dict[str, Result]:
    """Results by recipe and loader, printed as they are measured."""
    results: dict[str, Result] = {}
    for recipe, augment in recipes(hue_deg).items():
        print(f"\n{recipe}: {pairs} turns of {seconds:g} s, {num_threads} threads or workers")
        loaders = {name: partial(batches_of, name, augment, root, num_threads) for name in LOADERS}
        found = take_turns(loaders, pairs=pairs, seconds=seconds)
        print(f"against torchvision's four passes of jitter: {ratio(found['torchvision'])}", end="")
        print(f" (target: {TARGETS[recipe]})")
        print(f"against the same affine jitter in torch workers: {ratio(found['torch'])}")
        results |= {f"{recipe}/{name}": result for name, result in found.items()}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid", type=Path, help="the raw CamVid folder")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per measurement")
    parser.add_argument(
        "--hue-deg", type=float, default=18.0, help="0 turns off hue, torchvision's most expensive jitter"
    )
    parser.add_argument("--num-threads", type=int, default=2, help="DALI's threads, torch's workers")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the cores are the loaders'
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "camvid"
        pack(CamvidSource(root=args.camvid), root)
        results = compare(
            root, pairs=args.pairs, seconds=args.seconds, num_threads=args.num_threads, hue_deg=args.hue_deg
        )
    print(json.dumps({"benchmark": "loader", "cores": os.cpu_count(), "hue_deg": args.hue_deg, "results": results}))


if __name__ == "__main__":
    main()
