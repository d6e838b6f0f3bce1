"""Micro-batches as the network is fed them, turned back into pictures with their targets drawn over them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.codecs.label_layers import PRESENT
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.normalize import Normalization, as_pictures
from dist_seg.data.loading.objects import ImageObjects
from dist_seg.masks.drawing import DrawnObject, contact_sheet, draw_objects, overlay, overlay_labels
from dist_seg.masks.palette import IGNORED_LINES
from dist_seg.masks.rle import encode_masks
from dist_seg.tasks.task import ClassInfo

_CELL_WIDTH = 240
_IGNORED = ("hatched: ignored in training", IGNORED_LINES)


@dataclass(frozen=True, kw_only=True)
class FedSample:
    """A sample of a micro-batch."""

    key: str
    image: NDArray[np.uint8]
    """(H, W, 3): the network's input, its normalisation undone."""
    drawn: NDArray[np.uint8]
    """The same with its target over it; larger where objects would not be seen."""
    target: NDArray[np.integer]
    """As the loss gets it."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of one sample by two loaders."""

    grey_levels: float
    """The mean over all pixels and channels, of 256."""
    equal_target: float
    """Share of the target's pixels."""

    def __str__(self) -> str:
        return f"images {self.grey_levels:.2f} grey levels apart, targets {100 * self.equal_target:.2f}% equal"


def fed_samples(batch: Batch, task: str, classes: ClassInfo, norm: Normalization) -> Iterator[FedSample]:
    """The samples of a micro-batch of training."""
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
    """Of one sample by two loaders."""
    return Difference(
        grey_levels=float(np.abs(a.image.astype(np.int16) - b.image).mean()),
        equal_target=float((a.target == b.target).mean()),
    )


def preview_sheet(
    samples: Sequence[Sequence[FedSample]], captions: Sequence[str], task: str, classes: ClassInfo, title: str
) -> Image.Image:
    """A sheet with a group for each sample: its image and its target, by one loader or by several, side by side."""
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
