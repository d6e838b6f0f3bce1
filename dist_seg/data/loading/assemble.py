"""Makes batches from decoded samples: the last step of every loader."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from dist_seg.config.schema import AugmentConfig, DataConfig
from dist_seg.data.codecs.annotations import ImageAnnotations
from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.decode import decode_image
from dist_seg.data.codecs.encoded import BadSample, BadShard, Ids, LayerMap, TargetKind, ValueMap
from dist_seg.data.codecs.label_layers import PRESENT
from dist_seg.data.codecs.npy import ArrayLayout, Values
from dist_seg.data.codecs.targets import decode_sample_image, why_undecodable
from dist_seg.data.loading.augment import SampleTransform, digest
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.fetch import DrawnSample, Fetched, Fetcher, Unit, bad_samples, bad_shards, drawn_samples
from dist_seg.data.loading.geometry import place_image, place_mask
from dist_seg.data.loading.normalize import Normalization, normalization, normalize
from dist_seg.data.loading.objects import ImageObjects, derive_objects
from dist_seg.data.view.data_view import DataView
from dist_seg.data.view.pixel_values import check_jitter, fit_pixels

_DTYPES = {"uint8": torch.uint8, "int32": torch.int32, "int64": torch.int64}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all samples of a loader have in common."""

    training: bool
    """Whether targets are placed on the canvas like the images; in evaluation they keep their own size."""
    canvas: tuple[int, int] | None
    """(height, width) of every image; None to keep each picture's own size."""
    resizes: bool
    rotates: bool
    blurs: bool
    norm: Normalization
    array: ArrayLayout | None
    """Layout of array images; None for pictures."""
    channels: tuple[int, ...] | None
    """The channels of array images that the network takes, in its order; None for pictures."""
    target: TargetKind
    """The kind of the targets, in the run's classes."""
    min_visible: float = 0.0
    """See `augment.min_visible`."""


def make_recipe(
    data: DataConfig, augment: AugmentConfig | None, canvas: tuple[int, int] | None, view: DataView
) -> Recipe:
    """The recipe for samples that are augmented as `augment` says, or for whole pictures if it is None.

    canvas: None keeps each picture's own size. Raises ConfigError for settings that do not suit the data's images.
    """
    if augment is not None:
        check_jitter(augment, view)
    data = fit_pixels(data, view)
    scaled = augment is not None and (augment.scale_min, augment.scale_max) != (1.0, 1.0)
    return Recipe(
        training=augment is not None,
        canvas=canvas,
        resizes=scaled or _scales_input(data),
        rotates=augment is not None and augment.rotate_deg > 0,
        blurs=augment is not None and augment.blur_sigma_max > 0 and augment.blur_probability > 0,
        norm=normalization(data),
        array=view.image,
        channels=data.channels if view.image else None,
        target=view.target_kind,
        min_visible=0.0 if augment is None else augment.min_visible,
    )


def _scales_input(data: DataConfig) -> bool:
    return data.input_side is not None or (data.input_scale or 1.0) != 1.0


def place(
    parts: Iterable[tuple[NDArray[np.uint8] | NDArray[np.float32], Ids]],
    samples: Sequence[DrawnSample],
    recipe: Recipe,
) -> tuple[list[Tensor], list[Tensor]]:
    """Applies geometry and blur to decoded regions: images (C, H, W) and masks for `group_by_size`.

    parts: for every sample its image, (h, w, 3) uint8 or (h, w, C) float32 for an array, and its mask, (h, w) or
    (K, h, w) uint8, or (L, h, w) int16.
    """
    images, masks = [], []
    for (image_hwc, mask), sample in zip(parts, samples, strict=True):
        images.append(place_image(image_hwc, sample.transform, recipe.norm.padding))
        placed = place_mask(mask, sample.transform, recipe.target.border) if recipe.training else None
        masks.append(torch.from_numpy(mask) if placed is None else placed)
    return images, masks


def decode_reference(
    samples: Sequence[DrawnSample], recipe: Recipe
) -> Iterator[tuple[NDArray[np.uint8] | NDArray[np.float32], Ids]]:
    """Decodes the regions of the samples for `place` with the reference decoder. Raises UndecodableError."""
    for sample in samples:
        y, x, h, w = sample.transform.roi
        mask = sample.encoded.kind.decode(sample.encoded, sample.transform.roi)
        if recipe.array:
            yield array_region(sample, recipe).astype(np.float32), mask
        else:
            yield decode_image(sample.encoded.image)[y : y + h, x : x + w], mask


def array_region(sample: DrawnSample, recipe: Recipe) -> Values:
    """The region (h, w, C) of an array image, with the channels that the network takes."""
    y, x, h, w = sample.transform.roi
    part = decode_sample_image(sample.encoded)[y : y + h, x : x + w]
    assert recipe.array is not None and recipe.channels is not None
    everything = recipe.channels == tuple(range(recipe.array.channels))
    chosen = part if everything else part.take(recipe.channels, axis=2)
    return chosen if chosen.flags.c_contiguous else chosen.copy()


def reject_undecodable(fetcher: Fetcher[Unit], fetched: Sequence[Fetched]) -> list[Fetched]:
    """Decodes the samples one by one with the reference decoder, and replaces or drops those that fail."""
    return [
        f if f.encoded is None or (reason := why_undecodable(f.encoded)) is None else fetcher.reject(f, reason)
        for f in fetched
    ]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A batch of one size before normalisation: compact, to be moved between processes and devices."""

    images: Tensor | Sequence[Tensor]
    """(B, 3, H, W) or B times (3, H, W), uint8 RGB; for arrays C channels, float32."""
    masks: Tensor | Sequence[Tensor]
    """(B, H, W) or B times (H, W), uint8. Layers are (B, L, H, W) or B times (L, H, W): object ids in int16, labels in
    uint8."""
    keys: tuple[str, ...]
    transforms: tuple[SampleTransform, ...]
    bad: tuple[BadSample, ...]
    bad_shards: tuple[BadShard, ...] = ()
    replaced: int = 0
    annotations: tuple[ImageAnnotations, ...] = ()
    """Each image's objects; empty for targets without objects."""


def group_by_size(images: Sequence[Tensor], masks: Sequence[Tensor], fetched: Sequence[Fetched]) -> list[Placed]:
    """One batch for each size among the samples. The first batch names the bad samples; it is empty if all are bad.

    images: B times (3, H, W) uint8 RGB, or (C, H, W) float32 for arrays. masks: B times (H, W) or (K, H, W) uint8, or
    (L, H, W) int16 with L at most 3.
    """
    samples, bad = drawn_samples(fetched), bad_samples(fetched)
    masks = _as_many_layers(
        [mapped_mask(mask, s.encoded.kind.class_map) for mask, s in zip(masks, samples, strict=True)]
    )
    groups: dict[tuple[torch.Size, torch.Size], list[int]] = {}
    for i in range(len(samples)):
        groups.setdefault((images[i].shape, masks[i].shape), []).append(i)
    if not groups:
        no_images, no_masks = torch.empty(0, 3, 1, 1), torch.empty(0, 1, 1, dtype=torch.uint8)
        return [Placed(images=no_images, masks=no_masks, keys=(), transforms=(), bad=bad)]
    return [
        Placed(
            images=[images[i] for i in members],
            masks=[masks[i] for i in members],
            keys=tuple(samples[i].encoded.key for i in members),
            transforms=tuple(samples[i].transform for i in members),
            bad=() if number else bad,
            bad_shards=() if number else bad_shards(fetched),
            replaced=0 if number else sum(f.replaced for f in fetched),
            annotations=tuple(a for i in members if (a := samples[i].encoded.annotations) is not None),
        )
        for number, members in enumerate(groups.values())
    ]


def _as_many_layers(masks: Sequence[Tensor]) -> Sequence[Tensor]:
    """Adds empty layers until all masks have equally many. Masks without layers stay unchanged."""
    if not masks or masks[0].ndim == 2:
        return masks
    most = max(len(mask) for mask in masks)
    return [mask if len(mask) == most else pad(mask, (0, 0, 0, 0, 0, most - len(mask))) for mask in masks]


def finish(placed: Placed, recipe: Recipe, device: torch.device) -> Batch:
    """Moves a batch to the device; there it gets its colours, normalisation, types and objects."""
    images, masks = _moved(placed.images, device), _moved(placed.masks, device)
    targets = masks if isinstance(masks, Tensor) else torch.stack(list(masks))
    targets = targets.to(_DTYPES[recipe.target.batch_dtype])
    if recipe.target.num_known_ids is not None and targets.is_cuda:
        # On the CPU a sample with such ids is a bad sample. Here a check would wait for the device, so these pixels are
        # ignored: a loss that meets such an id ends the process.
        targets.masked_fill_(targets >= recipe.target.num_known_ids, recipe.target.border)
    objects: tuple[ImageObjects, ...] = ()
    if recipe.training and placed.annotations:
        objects = tuple(
            derive_objects(ids, annotations, transform, min_visible=recipe.min_visible)
            for ids, annotations, transform in zip(targets, placed.annotations, placed.transforms, strict=True)
        )
    return Batch(
        images=normalize(images, placed.transforms, recipe.norm),
        targets=targets,
        keys=placed.keys,
        bad=placed.bad,
        bad_shards=placed.bad_shards,
        replaced=placed.replaced,
        objects=objects,
        annotations=() if recipe.training else placed.annotations,
        digest=digest(placed.keys, placed.transforms),
    )


def _moved(tensors: Tensor | Sequence[Tensor], device: torch.device) -> Tensor | Sequence[Tensor]:
    if isinstance(tensors, Tensor):
        return tensors.to(device, non_blocking=True)
    return [tensor.to(device, non_blocking=True) for tensor in tensors]


def mapped_mask(mask: Tensor, class_map: ValueMap | LayerMap | None) -> Tensor:
    """A sample's mask in the run's classes. Its border stays."""
    match class_map:
        case None:
            return mask
        case ValueMap(table=table):
            if mask.device.type == "cpu":
                return torch.from_numpy(table.take(mask.numpy()))  # faster than torch's indexing
            return torch.from_numpy(table).to(mask.device)[mask.long()]
        case LayerMap(sources=sources):
            return torch.stack([_merged([mask[old] for old in olds], like=mask[0]) for olds in sources])


def _merged(labels_HW: Sequence[Tensor], *, like: Tensor) -> Tensor:
    """One layer (H, W) from layers of labels, each 0, 1 or 255 for unknown.

    A pixel has the label if it is 1 in any layer; otherwise it is unknown if it is unknown in any. No layers give a
    layer like `like` that is unknown everywhere.
    """
    if not labels_HW:
        return torch.full_like(like, IGNORE_INDEX)
    merged = labels_HW[0]
    for label_HW in labels_HW[1:]:
        merged = torch.where((merged == PRESENT) | (label_HW == PRESENT), PRESENT, torch.maximum(merged, label_HW))
    return merged
