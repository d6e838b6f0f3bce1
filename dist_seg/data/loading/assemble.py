"""From decoded samples to batches: the last step of every loader."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

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
from dist_seg.data.codecs.targets import decode_sample, why_undecodable
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
    """What the samples of a loader have in common."""

    training: bool
    """Targets go with the images onto the canvas; in evaluation they keep their own size."""
    canvas: tuple[int, int] | None
    """(height, width) of every image; None where it is each picture's own."""
    resizes: bool
    rotates: bool
    blurs: bool
    norm: Normalization
    array: ArrayLayout | None
    """What the images are; None for pictures."""
    channels: tuple[int, ...] | None
    """Of arrays: those that the network takes, in this order."""
    target: TargetKind
    """What the targets are, and become in a batch."""
    min_visible: float = 0.0
    """See `augment.min_visible`."""


def make_recipe(
    data: DataConfig, augment: AugmentConfig | None, canvas: tuple[int, int] | None, view: DataView
) -> Recipe:
    """Samples as they are drawn from `augment`, or whole pictures where it is None.

    canvas: None keeps each picture's own size. Raises ConfigError for what does not go with the data's images.
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
    """Geometry and blur of samples whose regions are decoded: images (C, H, W) and masks for `group_by_size`.

    parts: of every sample the image, (h, w, 3) uint8 or of arrays (h, w, C) float32, and the mask: (h, w) or (K, h, w)
    uint8, or (L, h, w) int16.
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
    """The regions of the samples for `place`, by the reference decoder. Raises UndecodableError."""
    for sample in samples:
        y, x, h, w = sample.transform.roi
        mask = sample.encoded.kind.decode(sample.encoded, sample.transform.roi)
        if recipe.array:
            yield array_region(sample, recipe).astype(np.float32), mask
        else:
            yield decode_image(sample.encoded.image)[y : y + h, x : x + w], mask


def array_region(sample: DrawnSample, recipe: Recipe) -> Values:
    """The region of an image that is an array, (h, w, C), with the channels that the network takes."""
    y, x, h, w = sample.transform.roi
    part = decode_sample(sample.encoded)[y : y + h, x : x + w]
    assert recipe.array is not None and recipe.channels is not None
    everything = recipe.channels == tuple(range(recipe.array.channels))
    chosen = part if everything else part.take(recipe.channels, axis=2)
    return cast(Values, np.ascontiguousarray(chosen))


def reject_undecodable(fetcher: Fetcher[Unit], fetched: Sequence[Fetched]) -> list[Fetched]:
    """What comes instead of the samples that the reference decoder cannot decode, tried one by one."""
    return [
        f if f.encoded is None or (reason := why_undecodable(f.encoded)) is None else fetcher.reject(f, reason)
        for f in fetched
    ]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A batch of one size before its normalisation: compact, to be moved between processes and devices."""

    images: Tensor | Sequence[Tensor]
    """(B, 3, H, W) or B times (3, H, W), uint8 RGB; of arrays C channels, float32."""
    masks: Tensor | Sequence[Tensor]
    """(B, H, W) or B times (H, W), uint8; with layers (B, L, H, W) or B times (L, H, W): of object ids int16, of labels
    uint8."""
    keys: tuple[str, ...]
    transforms: tuple[SampleTransform, ...]
    bad: tuple[BadSample, ...]
    bad_shards: tuple[BadShard, ...] = ()
    replaced: int = 0
    annotations: tuple[ImageAnnotations, ...] = ()
    """Of instances."""


def group_by_size(images: Sequence[Tensor], masks: Sequence[Tensor], fetched: Sequence[Fetched]) -> list[Placed]:
    """One batch for every size among the samples, bad ones named in the first; where all are bad, one of no samples.

    images: B times (3, H, W), uint8 RGB, or of arrays (C, H, W), float32. masks: B times (H, W) or (K, H, W), uint8, or
    (L, H, W), int16, L at most 3.
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
    """Layers of object ids with empty ones added, so that all have as many; class ids, and labels, as they are."""
    if not masks or masks[0].ndim == 2:
        return masks
    most = max(len(mask) for mask in masks)
    return [mask if len(mask) == most else pad(mask, (0, 0, 0, 0, 0, most - len(mask))) for mask in masks]


def finish(placed: Placed, recipe: Recipe, device: torch.device) -> Batch:
    """Move to the device, then colour, normalisation, types and objects."""
    images, masks = _moved(placed.images, device), _moved(placed.masks, device)
    targets = masks if isinstance(masks, Tensor) else torch.stack(list(masks))
    targets = targets.to(_DTYPES[recipe.target.batch_dtype])
    if recipe.target.num_known_ids is not None and targets.is_cuda:
        # On the CPU such ids make a bad sample. Here, where looking would wait for the device, they are ignored: a loss
        # that meets one ends the process.
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
    """A sample's mask in the classes of the run. Its border stays."""
    match class_map:
        case None:
            return mask
        case ValueMap(table=table):
            # NumPy's `take` is the fastest on the CPU.
            if mask.device.type == "cpu":
                return torch.from_numpy(table.take(mask.numpy()))
            return torch.from_numpy(table).to(mask.device)[mask.long()]
        case LayerMap(sources=sources):
            return torch.stack([_merged([mask[old] for old in olds], like=mask[0]) for olds in sources])


def _merged(labels_HW: Sequence[Tensor], *, like: Tensor) -> Tensor:
    """Layers of labels, 0, 1 or 255 for unknown, as one label: (H, W), of the size and type of `like`.

    It is there where any of them is, and unknown where one that may be is. Without a layer it is unknown everywhere.
    """
    if not labels_HW:
        return torch.full_like(like, IGNORE_INDEX)
    merged = labels_HW[0]
    for label_HW in labels_HW[1:]:
        merged = torch.where((merged == PRESENT) | (label_HW == PRESENT), PRESENT, torch.maximum(merged, label_HW))
    return merged
