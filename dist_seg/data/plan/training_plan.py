"""Builds the plan of a configuration: all samples equally often, by data set, or by class."""

import math
from collections.abc import Sequence

import numpy as np

from dist_seg.config.schema import DataConfig, TrainConfig
from dist_seg.data.plan.mixed_plan import MixedPart, MixedPlan
from dist_seg.data.plan.plan import Plan, TrainPlan
from dist_seg.data.view.data_view import DataView, SplitView, dataset_of
from dist_seg.errors import DataError

RARE_CLASS_TEMPERATURE = 0.01
"""From Hoyer et al. 2022, DAFormer."""


def training_plan(data: DataConfig, train: TrainConfig, view: DataView) -> Plan:
    """The plan of the training split. `train.global_batch` and `train.micro_batch` must be set."""
    assert train.global_batch is not None and train.micro_batch is not None
    split = view.split(data.train_split)
    if data.sampling == "uniform" and not data.mix:
        return TrainPlan(
            split.shard_samples,
            seed=train.seed,
            global_batch=train.global_batch,
            micro_batch=train.micro_batch,
            shuffle_window=data.shuffle_window,
        )
    return MixedPlan(
        _datasets(data, split) if data.sampling == "uniform" else _classes(data, view, split),
        split.shard_samples,
        seed=train.seed,
        global_batch=train.global_batch,
        micro_batch=train.micro_batch,
        shuffle_window=data.shuffle_window,
    )


def class_sampling_weights(frequencies: Sequence[float], temperature: float) -> list[float]:
    """Rare class sampling: weights that sum to 1, proportional to exp((1 - f) / T) (Hoyer et al. 2022)."""
    exponents = [-frequency / temperature for frequency in frequencies]
    weights = [math.exp(exponent - max(exponents)) for exponent in exponents]
    return [weight / sum(weights) for weight in weights]


def _datasets(data: DataConfig, split: SplitView) -> list[MixedPart]:
    """One part for each data set of a mix."""
    parts = []
    for member in data.mix:
        samples = [
            count if dataset_of(shard.name) == member.name else 0
            for shard, count in zip(split.shards, split.shard_samples, strict=True)
        ]
        if not any(samples):
            raise DataError(f"data.mix: {member.name} has no samples of split {data.train_split}")
        weight = float(sum(samples)) if member.weight is None else member.weight
        parts.append(MixedPart(name=member.name, shard_samples=samples, weight=weight))
    return parts


def _classes(data: DataConfig, view: DataView, split: SplitView) -> list[MixedPart]:
    """One part for each class that any sample holds."""
    assert split.class_samples is not None
    by_class = split.class_samples.T
    there = np.flatnonzero(by_class.any(axis=1)).tolist()
    if not there:
        raise DataError(f"data.sampling={data.sampling}: no sample of split {data.train_split} holds any class")
    counts = split.objects.class_objects if split.objects else split.class_pixels
    total = max(1, sum(counts))
    weights = [1.0] * len(there)
    if data.sampling == "rare_class":
        temperature = data.sampling_temperature or RARE_CLASS_TEMPERATURE
        weights = class_sampling_weights([counts[class_id] / total for class_id in there], temperature)
    return [
        MixedPart(name=view.class_names[class_id], shard_samples=by_class[class_id], weight=weight, holding=class_id)
        for class_id, weight in zip(there, weights, strict=True)
    ]
