"""From decoded samples to batches: the last step of every loader."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_seg.config.schema import Config
from dist_seg.data.augment import digest
from dist_seg.data.batch import Batch, EncodedSample
from dist_seg.data.decode import (
    Normalization,
    decode_image,
    decode_mask,
    finish,
    normalization,
    place_image,
    place_mask,
)
from dist_seg.data.fetch import DrawnSample, Fetched, Fetcher, Unit, bad_samples, drawn_samples
from dist_seg.data.headers import UndecodableError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the samples of a loader have in common."""

    training: bool
    """Targets go with the images onto the canvas; in evaluation they keep their own size."""
    canvas: tuple[int, int] | None
    """(height, width) of every image; None in evaluation."""
    resizes: bool
    rotates: bool
    blurs: bool
    norm: Normalization
    ignore_index: int


def train_recipe(cfg: Config, canvas: tuple[int, int], ignore_index: int) -> Recipe:
    """Of `cfg.data` and `cfg.augment`."""
    augment = cfg.augment
    return Recipe(
        training=True,
        canvas=canvas,
        resizes=(augment.scale_min, augment.scale_max, cfg.data.input_scale or 1.0) != (1.0, 1.0, 1.0),
        rotates=augment.rotate_deg > 0,
        blurs=augment.blur_sigma_max > 0 and augment.blur_probability > 0,
        norm=normalization(cfg.data),
        ignore_index=ignore_index,
    )


def eval_recipe(cfg: Config, ignore_index: int) -> Recipe:
    """Of `cfg.data`: whole pictures."""
    return Recipe(
        training=False,
        canvas=None,
        resizes=(cfg.data.input_scale or 1.0) != 1.0,
        rotates=False,
        blurs=False,
        norm=normalization(cfg.data),
        ignore_index=ignore_index,
    )


def decode_reference(samples: Sequence[DrawnSample], recipe: Recipe) -> tuple[list[Tensor], list[Tensor]]:
    """Images (3, H, W) float32 as `place_image` gives them and masks (H, W) uint8. Raises UndecodableError."""
    images, masks = [], []
    for sample in samples:
        image_hwc, mask_hw = decode_image(sample.encoded.image), decode_mask(sample.encoded.target)
        if recipe.training:
            mask_hw = place_mask(mask_hw, sample.transform, recipe.ignore_index)
        images.append(place_image(image_hwc, sample.transform, recipe.norm.padding))
        masks.append(torch.from_numpy(mask_hw))
    return images, masks


def reject_undecodable(fetcher: Fetcher[Unit], fetched: Sequence[Fetched]) -> list[Fetched]:
    """What comes instead of the samples that the reference decoder cannot decode, tried one by one."""
    return [
        f if f.encoded is None or (reason := _why_undecodable(f.encoded)) is None else fetcher.reject(f, reason)
        for f in fetched
    ]


def _why_undecodable(encoded: EncodedSample) -> str | None:
    parts = (("image", decode_image, encoded.image), ("mask", decode_mask, encoded.target))
    for role, decode, data in parts:
        try:
            decode(data)
        except UndecodableError as error:
            return f"{role}: {error}"
    return None


def to_batches(
    images: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor],
    fetched: Sequence[Fetched],
    recipe: Recipe,
) -> list[Batch]:
    """One batch for every size among the samples; one without samples where there are none.

    images: (B, 3, H, W) or B times (3, H, W), float32 as `place_image` gives them. masks: likewise (H, W), uint8.
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
                images=finish(_stacked(images, members), transforms, recipe.norm),
                targets=_stacked(masks, members).long(),
                keys=keys,
                bad=() if batches else bad,
                digest=digest(keys, transforms),
            )
        )
    if not batches:
        batches = [Batch(images=torch.empty(0, 3, 1, 1), targets=torch.empty(0, 1, 1).long(), keys=(), bad=bad)]
    return batches


def _stacked(tensors: Tensor | Sequence[Tensor], members: Sequence[int]) -> Tensor:
    if isinstance(tensors, Tensor) and len(members) == len(tensors):
        return tensors
    return torch.stack([tensors[i] for i in members])
