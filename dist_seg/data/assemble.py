"""From decoded samples to batches: the last step of every loader."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_seg.config.schema import AugmentConfig, DataConfig
from dist_seg.data.augment import digest
from dist_seg.data.batch import Batch
from dist_seg.data.decode import decode_image, decode_mask, why_undecodable
from dist_seg.data.fetch import DrawnSample, Fetched, Fetcher, Unit, bad_samples, drawn_samples
from dist_seg.data.normalize import Normalization, normalization, normalize
from dist_seg.data.place import place_image, place_mask


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the samples of a loader have in common."""

    training: bool
    """Targets go with the images onto the canvas; in evaluation they keep their own size."""
    canvas: tuple[int, int] | None
    """(height, width) of every image; None where it is each picture's own."""
    resizes: bool
    rotates: bool
    blurs: bool
    norm: Normalization
    ignore_index: int


def train_recipe(data: DataConfig, augment: AugmentConfig, canvas: tuple[int, int] | None, ignore_index: int) -> Recipe:
    """Samples as they are drawn from `augment`."""
    return Recipe(
        training=True,
        canvas=canvas,
        resizes=(augment.scale_min, augment.scale_max, data.input_scale or 1.0) != (1.0, 1.0, 1.0),
        rotates=augment.rotate_deg > 0,
        blurs=augment.blur_sigma_max > 0 and augment.blur_probability > 0,
        norm=normalization(data),
        ignore_index=ignore_index,
    )


def eval_recipe(data: DataConfig, ignore_index: int) -> Recipe:
    """Whole pictures."""
    return Recipe(
        training=False,
        canvas=None,
        resizes=(data.input_scale or 1.0) != 1.0,
        rotates=False,
        blurs=False,
        norm=normalization(data),
        ignore_index=ignore_index,
    )


def place(
    parts: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]], samples: Sequence[DrawnSample], recipe: Recipe
) -> tuple[list[Tensor], list[Tensor]]:
    """Geometry and blur of samples whose regions are decoded: images (3, H, W) and masks (H, W) for `to_batches`.

    parts: of every sample the image (h, w, 3) and the mask (h, w), uint8.
    """
    images, masks = [], []
    for (image_hwc, mask_hw), sample in zip(parts, samples, strict=True):
        images.append(place_image(image_hwc, sample.transform, recipe.norm.padding))
        mask = place_mask(mask_hw, sample.transform, recipe.ignore_index) if recipe.training else None
        masks.append(torch.from_numpy(mask_hw) if mask is None else mask)
    return images, masks


def decode_reference(samples: Sequence[DrawnSample]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The regions of the samples for `place`, by the reference decoder. Raises UndecodableError."""
    for sample in samples:
        y, x, h, w = sample.transform.roi
        image_hwc, mask_hw = decode_image(sample.encoded.image), decode_mask(sample.encoded.target)
        yield image_hwc[y : y + h, x : x + w], mask_hw[y : y + h, x : x + w]


def reject_undecodable(fetcher: Fetcher[Unit], fetched: Sequence[Fetched]) -> list[Fetched]:
    """What comes instead of the samples that the reference decoder cannot decode, tried one by one."""
    return [
        f if f.encoded is None or (reason := why_undecodable(f.encoded)) is None else fetcher.reject(f, reason)
        for f in fetched
    ]


def to_batches(
    images: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor],
    fetched: Sequence[Fetched],
    recipe: Recipe,
) -> list[Batch]:
    """One batch for every size among the samples; one without samples where there are none.

    images: (B, 3, H, W) or B times (3, H, W), RGB in 0..255, uint8 or float32. masks: likewise (H, W), uint8.
    Bad samples are named in the first batch.
    """
    samples, bad = drawn_samples(fetched), bad_samples(fetched)
    groups: dict[tuple[torch.Size, torch.Size], list[int]] = {}
    for i in range(len(samples)):
        groups.setdefault((images[i].shape, masks[i].shape), []).append(i)
    batches: list[Batch] = []
    for members in groups.values():
        chosen = [samples[i] for i in members]
        keys = tuple(sample.encoded.key for sample in chosen)
        transforms = [sample.transform for sample in chosen]
        batches.append(
            Batch(
                images=normalize(_chosen(images, members), transforms, recipe.norm),
                targets=_stacked(_chosen(masks, members)).long(),
                keys=keys,
                bad=() if batches else bad,
                digest=digest(keys, transforms),
            )
        )
    if not batches:
        batches = [Batch(images=torch.empty(0, 3, 1, 1), targets=torch.empty(0, 1, 1).long(), keys=(), bad=bad)]
    return batches


def _chosen(tensors: Tensor | Sequence[Tensor], members: Sequence[int]) -> Tensor | Sequence[Tensor]:
    return tensors if len(members) == len(tensors) else [tensors[i] for i in members]


def _stacked(tensors: Tensor | Sequence[Tensor]) -> Tensor:
    return tensors if isinstance(tensors, Tensor) else torch.stack(list(tensors))
