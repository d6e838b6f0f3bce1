"""`dist-seg preview`: a sheet of what the network will be fed."""

import argparse
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal, cast

from dist_seg import capacity
from dist_seg.config.load import load_config
from dist_seg.config.recipes import given_or_shipped
from dist_seg.config.schema import Config
from dist_seg.data.inspection.summary import check_output
from dist_seg.data.loading.loader import choose_loader, train_batches
from dist_seg.data.loading.normalize import normalization
from dist_seg.data.plan.plan import Plan
from dist_seg.data.plan.training_plan import training_plan
from dist_seg.data.shards.bad_shards import check_bad_shards, find_bad_shards
from dist_seg.data.view.data_view import RunData
from dist_seg.data.view.open import open_run_data
from dist_seg.data.view.pixel_values import check_jitter, fit_pixels
from dist_seg.distributed.world import World, detect_world
from dist_seg.engine.class_info import class_info
from dist_seg.errors import ConfigError, UserError
from dist_seg.preview import FedSample, difference, fed_samples, preview_sheet
from dist_seg.storage.files import write_whole

_SHEET_SUFFIXES = (".png", ".jpg", ".jpeg")


def run_preview(options: argparse.Namespace) -> int:
    """The command."""
    check_output(options.out, _SHEET_SUFFIXES)
    if options.samples < 1:
        raise UserError(f"--samples {options.samples}: give at least 1")
    if options.step < 0:
        raise UserError(f"--step {options.step}: steps are counted from 0")
    files = [given_or_shipped(Path(text)) for text in options.settings if "=" not in text]
    config = load_config(files, [text for text in options.settings if "=" in text])
    world, data = detect_world(), open_run_data(config.data)
    bad_shards = _bad_shards(config, data)
    config = _fitted(config, data, world, bad_shards)
    plan = training_plan(config.data, config.train, data.manifest)
    loaders = ["torch", "dali"] if options.both_loaders else [choose_loader(config)]
    fed = [
        list(_fed(config, loader, data, plan, world, options.step, options.samples, bad_shards)) for loader in loaders
    ]
    captions = []
    for first, *others in zip(*fed, strict=True):
        apart = "".join(f": {difference(first, other)}" for other in others)
        captions.append(f"{first.key}  {first.image.shape[1]}x{first.image.shape[0]}{apart}")
    title = f"{config.data.place}, {config.data.train_split}, from step {options.step}: {' | '.join(loaders)}"
    sheet = preview_sheet(list(zip(*fed, strict=True)), captions, config.task, class_info(data.manifest), title)
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG" if options.out.suffix.lower() == ".png" else "JPEG")
    write_whole(options.out, encoded.getvalue())
    for caption in captions if options.both_loaders else ():
        print(caption)
    print(f"{len(captions)} samples: {options.out}")
    return 0


def _fitted(config: Config, data: RunData, world: World, bad_shards: Mapping[str, str]) -> Config:
    """As training settles it, whose seed, batch and crop decide what is drawn."""
    manifest = data.manifest
    if config.task not in ("auto", manifest.task):
        raise ConfigError(f"{data.storage.url} is packed for the task {manifest.task!r}, but task={config.task}")
    config = dataclasses.replace(config, task=cast(Literal["semantic", "multilabel", "instance"], manifest.task))
    check_jitter(config.augment, manifest)
    config = dataclasses.replace(config, data=fit_pixels(config.data, manifest))
    facts = capacity.data_facts(data.storage, manifest, config.data.train_split, bad_shards)
    return capacity.fit_sizes(config, facts, world)


def _bad_shards(config: Config, data: RunData) -> dict[str, str]:
    """What training would leave out, with the reasons; more than that ends here as there."""
    shards = data.manifest.split(config.data.train_split).shards
    bad = find_bad_shards(data.storage, shards)
    check_bad_shards(bad, config.data.max_bad_shards, len(shards), data.storage.url)
    return bad


def _fed(
    config: Config,
    loader: str,
    data: RunData,
    plan: Plan,
    world: World,
    first_step: int,
    count: int,
    bad_shards: Mapping[str, str],
) -> Iterator[FedSample]:
    """So many samples of the global batches from `first_step` on, in the order of their lanes; beyond an epoch's end
    those of the next one."""
    kind = cast(Literal["dali", "torch"], loader)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, loader=kind))
    choose_loader(config)  # DALI may be missing
    num_steps = math.ceil(count / plan.global_batch)
    units = ((step, lane) for step in range(first_step, first_step + num_steps) for lane in range(plan.lanes))
    classes, norm = class_info(data.manifest), normalization(config.data)
    batches = train_batches(config, data.manifest, data.storage, plan, units, world.device, 0, bad_shards)
    try:
        samples = (sample for batch in batches for sample in fed_samples(batch, config.task, classes, norm))
        yield from islice(samples, count)
    finally:
        batches.close()
