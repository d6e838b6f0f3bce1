"""Tars as other tools write them."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.view.data_view import whole_view
from dist_seg.data.view.reader import ShardReader
from dist_seg.storage.object_store import open_storage

from .raw_data import encoded, picture

HEIGHT, WIDTH = 20, 30


def tar_mask(seed: int = 0, classes: int = 3) -> np.ndarray:
    """(HEIGHT, WIDTH) class ids."""
    return np.random.default_rng(seed).integers(0, classes, (HEIGHT, WIDTH), dtype=np.uint8)


def as_png(array: np.ndarray) -> bytes:
    return encoded(Image.fromarray(array), "PNG")


def tar_sample(seed: int = 0) -> dict[str, bytes]:
    """Image and mask by their suffixes."""
    return {
        "jpg": encoded(Image.fromarray(picture(HEIGHT, WIDTH, seed)), "JPEG"),
        "seg.png": as_png(tar_mask(seed)),
    }


def tar_samples(count: int, start: int = 0) -> dict[str, dict[str, bytes]]:
    return {f"s{i:03d}": tar_sample(i) for i in range(start, start + count)}


def write_tar(
    path: Path, samples: Mapping[str, Mapping[str, bytes]], tar_format: int = tarfile.PAX_FORMAT, before: str = ""
) -> Path:
    """As other tools do: with times, owners, modes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for key, members in samples.items():
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{before}{key}.{suffix}")
                info.size, info.mode, info.mtime, info.uname, info.uid = len(data), 0o444, 1.5e9 + 0.25, "bigdata", 7
                tar.addfile(info, io.BytesIO(data))
    return path


def read_all(folder: Path, split: str = "train") -> dict[str, tuple[bytes, bytes]]:
    """Image and mask of every sample of an indexed folder by its key."""
    storage = open_storage(folder)
    reader = ShardReader(whole_view(storage, load_manifest(storage)), split)
    samples = (reader.read(shard, i) for shard, count in enumerate(reader.shard_samples) for i in range(count))
    return {sample.key: (sample.image, sample.target) for sample in samples}
