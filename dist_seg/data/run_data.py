"""What a run sees of packed data: where it lies, and its manifest as the configuration's `data` section wants it."""

from dataclasses import dataclass

from dist_seg.config.schema import DataConfig
from dist_seg.data.manifest import Manifest, load_manifest
from dist_seg.data.taxonomy import SETTING, map_classes
from dist_seg.errors import ConfigError
from dist_seg.runtime.collectives import on_every_rank
from dist_seg.runtime.storage import Storage, open_storage


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Packed data as a run reads it."""

    storage: Storage
    manifest: Manifest


def open_run_data(data: DataConfig) -> RunData:
    """The data of a configuration, the same on every rank. A collective; raises UserError for what cannot be used."""
    return on_every_rank(lambda: load_run_data(data))


def derived(manifest: Manifest, data: DataConfig) -> Manifest:
    """The manifest of a data set as `data` wants it."""
    return map_classes(manifest, data.class_map, SETTING)


def load_run_data(data: DataConfig) -> RunData:
    """As `open_run_data`, on this rank alone."""
    if data.shards is None:
        raise ConfigError("data.shards is not set: give the folder that `dist-seg pack` wrote")
    storage = open_storage(data.shards, retry_s=data.retry_s)
    return RunData(storage=storage, manifest=derived(load_manifest(storage), data))
