"""Small data sets with known faults."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.formats.synthetic import draw_shapes
from dist_seg.data.inspection.trouble import Trouble, find_trouble
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawSample, SampleRef
from dist_seg.data.shards.opened import open_data
from dist_seg.masks.palette import default_palette
from dist_seg.runtime.rng import generator

Scene = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def scene(number: int, height: int = 96, width: int = 128) -> Scene:
    """An image (H, W, 3) and its mask of the classes 0 to 5 (H, W)."""
    scene = draw_shapes(height, width, generator("scenes", number))
    return scene.image, scene.mask


def grey(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image).convert("L")


def jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """What is left of it."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def scaled(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    size = round(width * factor), round(height * factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def cropped(image: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """By the share on every side."""
    rows, columns = (round(length * share) for length in image.shape[:2])
    return image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]


@dataclass(frozen=True)
class ScenesSource:
    """Samples by `split/key`."""

    scenes: Mapping[str, Scene]
    class_names: tuple[str, ...] = ("background", "disk", "square", "triangle", "ring", "cross")
    ignore_index: int = IGNORE_INDEX

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        return default_palette(len(self.class_names))

    def samples(self) -> Sequence[SampleRef]:
        return [SampleRef(key=name.partition("/")[2], split=name.partition("/")[0], where=name) for name in self.scenes]

    def load(self, sample: SampleRef) -> RawSample:
        image, mask = self.scenes[sample.where]
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG")
        return RawSample(image=file.getvalue(), mask=np.ascontiguousarray(mask))


def packed(folder: Path, scenes: Mapping[str, Scene], shard_bytes: int = 10_000_000) -> Path:
    pack(ScenesSource(dict(scenes)), folder, PackOptions(shard_bytes=shard_bytes))
    return folder


def trouble_of(folder: Path, scenes: Mapping[str, Scene]) -> Trouble:
    return find_trouble(open_data(packed(folder, scenes)))


def found(trouble: Trouble) -> dict[str, list[tuple[str, ...]]]:
    """The samples of every kind of finding."""
    kinds: dict[str, list[tuple[str, ...]]] = {}
    for finding in trouble.findings:
        kinds.setdefault(finding.kind, []).extend(tuple(map(str, example.places)) for example in finding.examples)
    return kinds
