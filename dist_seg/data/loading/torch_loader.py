"""The loader for machines without DALI, and the reference for the DALI loader.

`SegmentationDataset` can also be used on its own, for example in a notebook:

    dataset = SegmentationDataset("data/camvid", split="train", augment=AugmentConfig(crop_height=288, crop_width=384))
    sample = dataset[0]
"""

import dataclasses
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dist_seg.config.schema import AugmentConfig, DataConfig
from dist_seg.data.codecs.encoded import EncodedSample
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.loading.assemble import (
    Placed,
    Recipe,
    decode_reference,
    finish,
    group_by_size,
    make_recipe,
    mapped_mask,
    place,
    reject_undecodable,
)
from dist_seg.data.loading.augment import SampleTransform, draw, eval_transform, input_factor
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.fetch import DrawnSample, Fetcher, Unit, drawn_samples
from dist_seg.data.loading.normalize import normalize
from dist_seg.data.shards.counts import locate_samples
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.view.data_view import whole_view
from dist_seg.data.view.open import viewed
from dist_seg.data.view.reader import ShardReader
from dist_seg.errors import ConfigError, DataError, UserError
from dist_seg.runtime.rng import generator
from dist_seg.storage.object_store import Storage, open_storage


class Sample(TypedDict):
    """image: (C, H, W) float32, normalised. mask: (H, W) int64 class ids or the ignore index, or (L, H, W) layers of
    object ids, 0 where there is no object, or of labels.
    """

    image: Tensor
    mask: Tensor
    key: str


class SegmentationDataset(Dataset[Sample]):
    """A map-style data set: the samples of a packed data set, in the order of its shards.

    augment: None gives whole pictures. The same (seed, epoch) draws the same augmentation. Without a crop size,
    pictures keep the size that their scale gives them.
    """

    def __init__(
        self,
        shards: str | Storage,
        *,
        split: str = "train",
        augment: AugmentConfig | None = None,
        data: DataConfig | None = None,
        seed: int = 0,
        epoch: int = 0,
    ) -> None:
        storage = open_storage(shards) if isinstance(shards, str) else shards
        view = whole_view(storage, load_manifest(storage))
        if data is not None:
            view = viewed(view, data)
        self.class_names = view.class_names
        self.palette = view.palette
        self.ignore_index = view.ignore_index
        data = data or DataConfig(train_split="train" if "train" in view.splits else split)
        self._reader = ShardReader(view, split, max_pixels=data.max_pixels)
        self._ends = np.cumsum(self._reader.shard_samples, dtype=np.int64)
        self._augment, self._seed, self._epoch = augment, seed, epoch
        self._data, self._crop = data, None
        if augment is not None:
            height, width = augment.crop_height, augment.crop_width
            if (height is None) != (width is None):
                raise ConfigError(
                    f"augment.crop_height is {height} and augment.crop_width {width}; set both, or neither to keep the "
                    "pictures' own size"
                )
            if height is not None and width is not None:
                self._crop = (height, width)
        self._recipe = make_recipe(data, augment, self._crop, view)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        """Raises IndexError past the end, and DataError for a sample that cannot be used."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        (shard,), (inside,) = locate_samples(self._ends, np.array([index]))
        encoded = self._reader.read(int(shard), int(inside))
        sample = DrawnSample(encoded=encoded, transform=self._draw(encoded))
        try:
            images, masks = place(decode_reference([sample], self._recipe), [sample], self._recipe)
        except UndecodableError as error:
            raise DataError(f"{self._reader.shard_name(int(shard))}: sample {encoded.key}: {error}") from error
        image = normalize(images, [sample.transform], self._recipe.norm)[0]
        return Sample(image=image, mask=mapped_mask(masks[0], encoded.kind.class_map).long(), key=encoded.key)

    def _draw(self, encoded: EncodedSample) -> SampleTransform:
        height, width = encoded.height, encoded.width
        factor = input_factor(self._data, height, width)
        if self._augment is None:
            return eval_transform(input_scale=factor, height=height, width=width)
        return draw(
            self._augment,
            input_scale=factor,
            height=height,
            width=width,
            crop=self._crop,
            rng=generator("augment", self._seed, self._epoch, encoded.key),
        )


@dataclass(frozen=True)
class _Failure:
    """An error from a worker process, without the traceback that DataLoader would add to its text."""

    kind: type[UserError]
    text: str


class _UnitDataset(Dataset["list[Placed] | _Failure"], Generic[Unit]):
    """Gives a whole micro-batch as one item, for a worker process to make."""

    def __init__(self, fetcher: Fetcher[Unit], recipe: Recipe) -> None:
        self._fetcher, self._recipe = fetcher, recipe

    def __getitem__(self, unit: Unit) -> "list[Placed] | _Failure":
        try:
            return [_stacked(placed) for placed in load_unit(self._fetcher, unit, self._recipe)]
        except UserError as error:
            return _Failure(type(error), str(error))


def torch_batches(
    fetcher: Fetcher[Unit],
    units: Iterable[Unit],
    *,
    recipe: Recipe,
    prefetch: int,
    num_workers: int,
    device: torch.device,
) -> Generator[list[Batch], None, None]:
    """The batches of every unit, in order, made by `num_workers` processes; 0 makes them here, when they are asked for.

    While one batch is in use, about `prefetch` more are made, at least one per worker. Workers hand over bytes, which
    are normalised here on the device: this moves a sixth of what floats and 64-bit ids would take.
    """
    loader = DataLoader(
        _UnitDataset(fetcher, recipe),
        sampler=units,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=max(1, -(-prefetch // num_workers)) if num_workers else None,
        collate_fn=_unchanged,
        generator=torch.Generator(),  # otherwise starting the workers would advance torch's own generator
    )
    return _finished(iter(loader), recipe, device)  # the workers start here, in the caller's thread


def _finished(
    items: Iterator[list[Placed] | _Failure], recipe: Recipe, device: torch.device
) -> Generator[list[Batch], None, None]:
    for item in items:
        if isinstance(item, _Failure):
            raise item.kind(item.text)
        yield [finish(placed, recipe, device) for placed in item]


def load_unit(fetcher: Fetcher[Unit], unit: Unit, recipe: Recipe) -> list[Placed]:
    """Reads, decodes and places the samples of one unit."""
    fetched = [fetcher.fetch(planned) for planned in fetcher.planned(unit)]
    while True:
        samples = drawn_samples(fetched)
        try:
            return group_by_size(*place(decode_reference(samples, recipe), samples, recipe), fetched)
        except UndecodableError:
            fetched = reject_undecodable(fetcher, fetched)


def _stacked(placed: Placed) -> Placed:
    """The batch with one tensor for all images: every tensor that crosses processes costs a file descriptor."""
    if not placed.keys:
        return placed
    if placed.images[0].is_contiguous():
        images = torch.stack(list(placed.images))
    else:  # channels last
        images = torch.stack([image.permute(1, 2, 0) for image in placed.images]).permute(0, 3, 1, 2)
    return dataclasses.replace(placed, images=images, masks=torch.stack(list(placed.masks)))


def _unchanged(item: "list[Placed] | _Failure") -> "list[Placed] | _Failure":
    return item
