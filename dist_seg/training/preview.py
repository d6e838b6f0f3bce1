"""Turns micro-batches, as the network gets them, back into pictures with their targets drawn on top."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dist_seg.config.schema import Config
from dist_seg.data.codecs.label_layers import PRESENT
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.loader import choose_loader, train_batches
from dist_seg.data.loading.normalize import Normalization, as_pictures, normalization
from dist_seg.data.loading.objects import ImageObjects
from dist_seg.data.plan.training_plan import training_plan
from dist_seg.data.view.data_view import DataView
from dist_seg.data.view.open import open_view
from dist_seg.distributed.world import World
from dist_seg.masks.drawing import DrawnObject, contact_sheet, draw_objects, overlay, overlay_labels
from dist_seg.masks.palette import IGNORED_LINES
from dist_seg.masks.rle import encode_masks
from dist_seg.tasks.classes import ClassInfo, class_info
from dist_seg.training.prepare import fit_to_data, with_task, without_bad_shards

_CELL_WIDTH = 240
_IGNORED = ("hatched: ignored in training", IGNORED_LINES)


@dataclass(frozen=True, kw_only=True)
class FedSample:
    """A sample of a micro-batch."""

    key: str
    image: NDArray[np.uint8]
    """(H, W, 3): the network's input, its normalisation undone."""
    drawn: NDArray[np.uint8]
    """The image with its target drawn on top; enlarged if objects would be too small to see."""
    target: NDArray[np.integer]
    """The target as the loss gets it."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference between two loaders for one sample."""

    grey_levels: float
    """Mean difference over all pixels and channels, in grey levels of 256."""
    equal_target: float
    """Fraction of the target's pixels that are equal."""

    def __str__(self) -> str:
        return f"images {self.grey_levels:.2f} grey levels apart, targets {100 * self.equal_target:.2f}% equal"


def fed_samples(batch: Batch, task: str, classes: ClassInfo, norm: Normalization) -> Iterator[FedSample]:
    """The samples of a training micro-batch."""
    targets = batch.targets.cpu().numpy()
    for i, image in enumerate(as_pictures(batch.images, norm)):
        match task:
            case "instance":
                objects = _drawn_objects(batch.objects[i], batch.targets[i], classes)
                drawn = np.asarray(draw_objects(image, objects))
            case "multilabel":
                drawn = np.asarray(overlay_labels(image, targets[i] == PRESENT, classes.palette))
            case _:
                drawn = overlay(image, targets[i], classes.palette, classes.ignore_index)
        yield FedSample(key=batch.keys[i], image=image, drawn=drawn, target=targets[i])


def difference(a: FedSample, b: FedSample) -> Difference:
    """The difference between two loaders for one sample."""
    return Difference(
        grey_levels=float(np.abs(a.image.astype(np.int16) - b.image).mean()),
        equal_target=float((a.target == b.target).mean()),
    )


def preview_sheet(
    samples: Sequence[Sequence[FedSample]], captions: Sequence[str], task: str, classes: ClassInfo, title: str
) -> Image.Image:
    """A sheet with a group for each sample: its image and target from one or several loaders, side by side."""
    return contact_sheet(
        [[picture for sample in group for picture in (sample.image, sample.drawn)] for group in samples],
        captions,
        # Objects have colours of their own.
        legend=[_IGNORED] if task == "instance" else list(zip(classes.names, classes.palette, strict=True)),
        title=title,
        cell_width=_CELL_WIDTH,
        columns=4 // len(samples[0]) if samples else 1,
    )


def _drawn_objects(objects: ImageObjects, layers_LHW: torch.Tensor, classes: ClassInfo) -> list[DrawnObject]:
    ids, layers = objects.ids.tolist(), objects.layers.tolist()
    layers_cpu = layers_LHW.cpu()
    masks = np.array([(layers_cpu[layer] == number).numpy() for layer, number in zip(layers, ids, strict=True)])
    rles = encode_masks(masks.reshape(-1, *layers_cpu.shape[-2:]))
    rows = zip(objects.boxes.tolist(), objects.labels.tolist(), objects.ignored.tolist(), rles, strict=True)
    return [
        DrawnObject(
            box=(x1, y1, x2 - x1, y2 - y1),
            rle=rle,
            label="ignored" if ignored else _label(classes.names, class_id),
            ignored=ignored,
        )
        for (x1, y1, x2, y2), class_id, ignored, (rle, _) in rows
    ]


def _label(names: Sequence[str], class_id: int) -> str:
    return names[class_id] if len(names) > 1 else ""


def prepare_preview(config: Config, world: World) -> tuple[Config, DataView]:
    """The configuration and data as a training would use them. Seed, batch and crop decide what is drawn."""
    view = without_bad_shards(config, open_view(config.data), scored=False)
    config, _ = fit_to_data(with_task(config, view), view, world)
    return config, view


def first_fed_samples(
    config: Config, loader: Literal["dali", "torch"], view: DataView, world: World, *, first_step: int, count: int
) -> Iterator[FedSample]:
    """The first `count` samples of the global batches from `first_step` on, in the order of their lanes.

    Continues with the next epoch at the end of an epoch.
    """
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, loader=loader))
    choose_loader(config)  # DALI may be missing
    plan = training_plan(config.data, config.train, view)
    num_steps = math.ceil(count / plan.global_batch)
    units = ((step, lane) for step in range(first_step, first_step + num_steps) for lane in range(plan.lanes))
    classes, norm = class_info(view), normalization(config.data)
    batches = train_batches(config, view, plan, units, world.device)
    try:
        samples = (sample for batch in batches for sample in fed_samples(batch, config.task, classes, norm))
        yield from islice(samples, count)
    finally:
        batches.close()
