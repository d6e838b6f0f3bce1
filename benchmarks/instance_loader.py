"""Does DALI feed an instance trainer faster than a well-tuned torch DataLoader, on the same cores?

    python benchmarks/instance_loader.py ../shared/data/coco100            # about seven minutes
    python benchmarks/instance_loader.py ../shared/data/nuclei --crop 256 --pairs 3

All loaders read the same shards in the same order and make the same micro-batches of square crops, with the pixels, the
box and the label of every object. There are two recipes: one scales by 0.5 to 2, mirrors, and jitters brightness,
contrast, saturation and hue; the other is large-scale jitter (0.1 to 2 of an image as large as the crop) without
colours. There are three torch peers:

- `torchvision`: what a careful user writes with torchvision's v2 functionals. The layers of object ids go through the
  geometry. Then each object becomes a mask of its own, and its box is computed from the mask, as in torchvision's own
  tutorial and for its Mask R-CNN. Tuned: libjpeg-turbo through `torchvision.io`, crop before resize, images in uint8,
  one thread per worker, persistent workers, whole micro-batches made by the worker, normalised on arrival. The target
  is set against this peer.
- `torchvision ids`: the same without masks. It hands over layers of ids, and boxes go through the geometry separately.
  That is cheaper and less exact: a box that was cut keeps sides that its object no longer reaches.
- `torch`: `data.loader=torch`, this project's own loader for machines without DALI. PIL decodes; the rest is the code
  that the DALI loader runs on the CPU.

Also prints where the time goes: milliseconds of one core per sample, for each part of the DALI loader.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image, decode_png
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import InterpolationMode, functional

from benchmarks.loader_turns import JITTER, PREFETCH, Batches, Result, as_tensor, jittered, ratio, take_turns
from dist_seg.config.schema import AugmentConfig, Config, DataConfig
from dist_seg.data.codecs.annotations import ImageAnnotations
from dist_seg.data.formats.coco.instances import open_coco
from dist_seg.data.loading.assemble import decode_reference, group_by_size, make_recipe
from dist_seg.data.loading.augment import SampleTransform
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.dali import DaliGraph
from dist_seg.data.loading.fetch import DrawnSample, TrainFetcher, drawn_samples
from dist_seg.data.loading.geometry import place_image, place_mask
from dist_seg.data.loading.loader import train_batches
from dist_seg.data.loading.normalize import normalize
from dist_seg.data.loading.objects import derive_objects
from dist_seg.data.packing.pack import pack
from dist_seg.data.plan.plan import TrainPlan
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.view.data_view import whole_view
from dist_seg.data.view.pixel_values import IMAGENET_MEAN, IMAGENET_STD
from dist_seg.data.view.reader import ShardReader
from dist_seg.storage.object_store import open_storage

MICRO_BATCH = 4
HUE_DEG = 18.0
TARGET = 1.4
LOADERS = ("dali", "torchvision", "torchvision ids", "torch")
PADDING = [124, 116, 104]

Units = Iterator[tuple[int, int]]
Sample = tuple[Tensor, Tensor, Tensor, Tensor]
"""Image (3, H, W) uint8; masks (N, H, W) bool or ids (L, H, W) int16; boxes (N, 4); labels (N,)."""


class TorchvisionObjects(Dataset[tuple[Tensor, list[Tensor], Tensor, Tensor]]):
    """One micro-batch per item: images (B, 3, H, W) as bytes, their masks or ids, all boxes and all labels."""

    def __init__(self, fetcher: TrainFetcher, augment: AugmentConfig, *, makes_masks: bool) -> None:
        self._fetcher, self._augment, self._makes_masks = fetcher, augment, makes_masks

    def __getitem__(self, unit: tuple[int, int]) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        drawn = drawn_samples([self._fetcher.fetch(planned) for planned in self._fetcher.planned(unit)])
        images, masks, boxes, labels = zip(*(self._sample(sample) for sample in drawn), strict=True)
        return torch.stack(images), list(masks), torch.cat(boxes), torch.cat(labels)

    def _sample(self, sample: DrawnSample) -> Sample:
        encoded, t = sample.encoded, sample.transform
        assert encoded.annotations is not None
        y, x, h, w = t.roi
        image = decode_image(as_tensor(encoded.image), mode=ImageReadMode.RGB)[:, y : y + h, x : x + w]
        ids = decode_png(as_tensor(encoded.target), mode=ImageReadMode.UNCHANGED).view(torch.int16)
        ids = ids.reshape(-1, encoded.height, encoded.width)[:, y : y + h, x : x + w]
        image = functional.resize(image, list(t.resized), antialias=True)
        ids = functional.resize(ids, list(t.resized), interpolation=InterpolationMode.NEAREST_EXACT)
        image, ids = functional.pad(image, _sides(t), fill=PADDING), functional.pad(ids, _sides(t))
        if t.flip:
            image, ids = functional.horizontal_flip(image), functional.horizontal_flip(ids)
        if self._augment.brightness:
            image = jittered(image, encoded.key, self._augment.hue_deg)
        if self._makes_masks:
            return image, *objects_of(ids, encoded.annotations)
        return image, ids, *moved_boxes(encoded.annotations, t)


def objects_of(ids: Tensor, annotations: ImageAnnotations) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (N, H, W), boxes and labels of the visible objects."""
    known = annotations.objects
    there = torch.bincount(ids.flatten(), minlength=len(known) + 1)[1:].nonzero().squeeze(1)
    layers = torch.tensor([o.layer for o in known], dtype=torch.int64)[there]
    labels = torch.tensor([o.class_id for o in known], dtype=torch.int64)[there]
    masks = ids[layers] == (there + 1).to(ids.dtype)[:, None, None]
    return masks, masks_to_boxes(masks), labels


def moved_boxes(annotations: ImageAnnotations, t: SampleTransform) -> tuple[Tensor, Tensor]:
    """Boxes and labels of the annotated boxes that overlap the crop."""
    y, x, h, w = t.roi
    corners = torch.tensor([o.bbox for o in annotations.objects]).reshape(-1, 4)
    labels = torch.tensor([o.class_id for o in annotations.objects], dtype=torch.int64)
    size = (annotations.height, annotations.width)
    boxes = functional.convert_bounding_box_format(
        tv_tensors.BoundingBoxes(corners, format="XYWH", canvas_size=size),
        new_format=tv_tensors.BoundingBoxFormat.XYXY,
    )
    boxes = functional.crop(boxes, y, x, h, w)
    boxes = functional.pad(functional.resize(boxes, list(t.resized)), _sides(t))
    if t.flip:
        boxes = functional.horizontal_flip(boxes)
    boxes, valid = functional.sanitize_bounding_boxes(boxes, min_size=1)
    return boxes.as_subclass(Tensor), labels[valid]


def _sides(t: SampleTransform) -> list[int]:
    top, left = t.offset
    return [left, top, t.canvas[1] - t.resized[1] - left, t.canvas[0] - t.resized[0] - top]


def recipes(crop: int) -> dict[str, tuple[AugmentConfig, DataConfig]]:
    colors = AugmentConfig(
        crop_height=crop, crop_width=crop, brightness=JITTER, contrast=JITTER, saturation=JITTER, hue_deg=HUE_DEG
    )
    large_scale = AugmentConfig(crop_height=crop, crop_width=crop, scale_min=0.1, scale_max=2.0)
    return {
        "scale and colours": (colors, DataConfig(prefetch=PREFETCH)),
        "large-scale jitter": (large_scale, DataConfig(prefetch=PREFETCH, input_side=crop)),
    }


class Bench:
    """One packed data set under one recipe."""

    def __init__(self, root: Path, augment: AugmentConfig, data: DataConfig) -> None:
        storage = open_storage(root)
        self.view = whole_view(storage, load_manifest(storage))
        self.augment, self.data = augment, data
        assert augment.crop_height is not None and augment.crop_width is not None
        self.crop = (augment.crop_height, augment.crop_width)
        samples = [shard.samples for shard in self.view.split("train").shards]
        self.plan = TrainPlan(samples, seed=0, global_batch=MICRO_BATCH, micro_batch=MICRO_BATCH, shuffle_window=8192)

    def fetcher(self) -> TrainFetcher:
        reader = ShardReader(self.view, "train")
        return TrainFetcher(reader, self.plan, self.augment, data=self.data, crop=self.crop, seed=0)

    def batches(self, name: str, num_threads: int) -> Batches:
        """An endless loader."""
        units = ((step, 0) for step in range(10**9))
        if name.startswith("torchvision"):
            return self._torchvision_batches(units, num_threads, makes_masks=name == "torchvision")
        cfg = Config(augment=self.augment, data=replace(self.data, loader="torch" if name == "torch" else "dali"))
        device = torch.device("cpu")
        return train_batches(cfg, replace(self.view, num_threads=num_threads), self.plan, units, device)

    def _torchvision_batches(self, units: Units, num_workers: int, *, makes_masks: bool) -> Batches:
        loader = DataLoader(
            TorchvisionObjects(self.fetcher(), self.augment, makes_masks=makes_masks),
            sampler=units,
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=max(1, math.ceil(PREFETCH / num_workers)),
            persistent_workers=True,
        )
        mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD))
        for images, masks, _, _ in loader:
            yield Batch(images=images.float().sub_(mean).div_(std), targets=masks[0], keys=("",) * len(images))


class Clock:
    """Adds up the time of all threads of this process, by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begin = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - begin


def breakdown(bench: Bench, batches: int) -> dict[str, float]:
    """Milliseconds of one core per sample, by part of the DALI loader on the CPU."""
    recipe = make_recipe(bench.data, bench.augment, bench.crop, bench.view)
    cpu = torch.device("cpu")
    graph = DaliGraph(recipe, max_batch=MICRO_BATCH, num_threads=1, device=cpu, depth=1, places=False)
    fetcher, clock = bench.fetcher(), Clock()
    for step in range(batches):
        with clock.part("read and parse"):
            fetched = [fetcher.fetch(planned) for planned in fetcher.planned((step, 0))]
        samples = drawn_samples(fetched)
        with clock.part("decode"):  # including placement, which is subtracted below
            graph.start(samples)
            graph.take(samples)
        decoded = list(decode_reference(samples, recipe))
        with clock.part("place image"):
            images = [
                place_image(image, s.transform, recipe.norm.padding)
                for (image, _), s in zip(decoded, samples, strict=True)
            ]
        with clock.part("place ids"):
            masks = [place_mask(ids, s.transform, 0) for (_, ids), s in zip(decoded, samples, strict=True)]
        (placed,) = group_by_size(images, masks, fetched)
        with clock.part("stack ids"):
            layers = torch.stack(list(placed.masks)).to(torch.int32)
        with clock.part("derive boxes"):
            for ids, annotations, transform in zip(layers, placed.annotations, placed.transforms, strict=True):
                derive_objects(ids, annotations, transform, min_visible=recipe.min_visible)
        with clock.part("normalise"):
            normalize(placed.images, placed.transforms, recipe.norm)
    parts = {name: 1e3 * seconds / (batches * MICRO_BATCH) for name, seconds in clock.seconds.items()}
    return {**parts, "decode": parts["decode"] - parts["place image"] - parts["place ids"]}


def compare(
    root: Path, *, crop: int, pairs: int, seconds: float, num_threads: int
) -> tuple[dict[str, Result], dict[str, dict[str, float]]]:
    """Results and the breakdown of time by recipe, printed as they are measured."""
    results: dict[str, Result] = {}
    parts: dict[str, dict[str, float]] = {}
    for recipe, (augment, data) in recipes(crop).items():
        bench = Bench(root, augment, data)
        print(f"\n{recipe}, crops of {crop}: {pairs} turns of {seconds:g} s, {num_threads} threads or workers")
        loaders = {name: partial(bench.batches, name, num_threads) for name in LOADERS}
        found = take_turns(loaders, pairs=pairs, seconds=seconds)
        print(f"against torchvision with one mask per object: {ratio(found['torchvision'])} (target: {TARGET})")
        parts[recipe] = breakdown(bench, 40)
        listed = ", ".join(f"{name} {ms:.2f}" for name, ms in parts[recipe].items())
        print(f"ms of one core per sample: {listed}; total {sum(parts[recipe].values()):.2f}")
        results |= {f"{recipe}/{name}": result for name, result in found.items()}
    return results, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="raw folder in COCO layout, with a training split")
    parser.add_argument("--crop", type=int, default=512, help="side of the crops")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per measurement")
    parser.add_argument("--num-threads", type=int, default=2, help="DALI's threads, torch's workers")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the cores are the loaders'
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "packed"
        pack(open_coco(args.data), root)
        results, parts = compare(
            root, crop=args.crop, pairs=args.pairs, seconds=args.seconds, num_threads=args.num_threads
        )
    document = {"benchmark": "instance_loader", "data": args.data.name, "crop": args.crop, "cores": os.cpu_count()}
    print(json.dumps({**document, "results": results, "ms_a_sample": parts}))


if __name__ == "__main__":
    main()
