"""The batches of a run, from DALI or from the torch loader."""

import importlib
import importlib.util
import logging
from collections.abc import Generator, Iterable, Sequence
from typing import Literal

import PIL
import torch

from dist_seg.config.schema import Config, DataConfig
from dist_seg.data.loading.assemble import Recipe, make_recipe
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.fetch import EvalFetcher, Fetcher, TrainFetcher, Unit
from dist_seg.data.loading.prefetch import in_background
from dist_seg.data.loading.torch_loader import torch_batches
from dist_seg.data.plan.plan import EvalPlan, Plan
from dist_seg.data.view.data_view import DataView
from dist_seg.data.view.reader import ShardReader
from dist_seg.errors import ConfigError, UserError

_log = logging.getLogger(__name__)


def choose_loader(cfg: Config) -> Literal["dali", "torch"]:
    """The loader that `data.loader` means on this machine. Raises UserError if DALI is asked for and missing."""
    if cfg.data.loader == "torch":
        return "torch"
    why_not = _why_no_dali()
    if why_not is None:
        return "dali"
    extras = "pip install 'dist-seg[dali-cuda13]' (driver 580 or newer, or no GPU) or 'dist-seg[dali-cuda12]'"
    if cfg.data.loader == "dali":
        raise UserError(
            f"data.loader=dali, but NVIDIA DALI cannot be imported ({why_not}): {extras}; or set data.loader=torch"
        )
    _log.warning(
        "data.loader=auto uses torch because NVIDIA DALI cannot be imported (%s); for DALI: %s", why_not, extras
    )
    return "torch"


def loader_threads(data: DataConfig, cpu_threads: int) -> int:
    """Number of threads or processes that make a rank's batches. cpu_threads: the rank's share of the CPU."""
    return cpu_threads if data.num_threads is None else data.num_threads


def loader_version(cfg: Config) -> dict[str, str]:
    """Name and version of the library that decodes."""
    if choose_loader(cfg) == "dali":
        from dist_seg.data.loading.dali import VERSION  # optional, and slow to import

        return {"dali": VERSION}
    return {"pillow": PIL.__version__}


def train_batches(
    cfg: Config, view: DataView, plan: Plan, units: Iterable[tuple[int, int]], device: torch.device
) -> Generator[Batch, None, None]:
    """The micro-batches of the units (step, lane), in order. `close()` ends the work in the background.

    Bad samples are replaced and named, and so are the samples of `view.bad_shards`. Shards that turn out to be bad are
    treated alike if `data.max_bad_shards` allows any. Raises DataError for data that cannot be read, or if nothing but
    bad samples is left.
    """
    crop = (cfg.augment.crop_height, cfg.augment.crop_width)
    if crop[0] is None or crop[1] is None:
        raise ConfigError("augment.crop_height and augment.crop_width must be set to train")
    fetcher = TrainFetcher(
        ShardReader(view, cfg.data.train_split, max_pixels=cfg.data.max_pixels),
        plan,
        cfg.augment,
        data=cfg.data,
        crop=(crop[0], crop[1]),
        seed=cfg.train.seed,
    )
    recipe = make_recipe(cfg.data, cfg.augment, (crop[0], crop[1]), view)
    for batches in _batches(cfg, fetcher, units, recipe, plan.micro_batch, device, view.num_threads):
        yield batches[0]


def eval_batches(
    cfg: Config, view: DataView, split: str, plan: EvalPlan, indices: Sequence[int], device: torch.device
) -> Generator[list[Batch], None, None]:
    """The batches of a split by their indices in the plan: whole pictures, targets at their own size.

    Yields a list for each index, with one batch for each size of picture. Bad samples are left out, and named in the
    first batch of the list. An index with only bad samples gives one empty batch. The samples of bad shards, in
    `view.bad_shards` or found now, are an error unless `eval.allow_bad_samples` is set, and then left out like bad
    samples.
    """
    if not indices:
        return
    reader = ShardReader(view, split, max_pixels=cfg.data.max_pixels)
    fetcher = EvalFetcher(reader, plan, data=cfg.data, allow_bad_shards=cfg.eval.allow_bad_samples)
    recipe = make_recipe(cfg.data, None, None, view)
    yield from _batches(cfg, fetcher, indices, recipe, len(plan.batch(0)), device, view.num_threads)


def _batches(
    cfg: Config,
    fetcher: Fetcher[Unit],
    units: Iterable[Unit],
    recipe: Recipe,
    max_batch: int,
    device: torch.device,
    num_threads: int,
) -> Generator[list[Batch], None, None]:
    prefetch = max(1, cfg.data.prefetch)
    if choose_loader(cfg) == "torch":
        batches = torch_batches(
            fetcher, units, recipe=recipe, prefetch=prefetch, num_workers=num_threads, device=device
        )
        if num_threads == 0:
            return batches
    else:
        from dist_seg.data.loading.dali import dali_batches  # optional, and slow to import

        batches = dali_batches(
            fetcher,
            units,
            recipe=recipe,
            max_batch=max_batch,
            prefetch=prefetch,
            num_threads=max(1, num_threads),
            device=device,
        )
    # On a GPU the rest is asynchronous anyway, and belongs to the consumer's stream.
    return in_background(batches, ahead=1) if device.type == "cpu" else batches


def _why_no_dali() -> str | None:
    try:
        if importlib.util.find_spec("nvidia.dali") is None:
            return "it is not installed"
        importlib.import_module("dist_seg.data.loading.dali")
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        return str(error)
    return None
