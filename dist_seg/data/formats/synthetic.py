"""A generated data set for first steps, tests and benchmarks: five kinds of shapes on textured backgrounds.

Colours are typical of a class, but overlap between classes. Size, angle, lighting, noise and overlap of the shapes
vary, and small specks belong to the background. Sample i of a split is a pure function of (seed, split, i).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.raw.images import encode_image
from dist_seg.data.raw.source import RawInstances, RawSample, SampleRef
from dist_seg.errors import DataError
from dist_seg.masks.palette import Rgb, default_palette
from dist_seg.masks.rle import encode_masks
from dist_seg.runtime.rng import generator

CLASS_NAMES = ("background", "disk", "square", "triangle", "ring", "cross")

Field = NDArray[np.float64]
"""(H, W) floats: one number for each pixel."""

_HUES = (0.02, 0.22, 0.42, 0.62, 0.82)
_HUE_SPREAD = 0.04
_MIN_OBJECT_PIXELS = 16
_PNG_EVERY = 4  # the others are JPEG, so that both formats occur


@dataclass(frozen=True, kw_only=True)
class SyntheticSource:
    """`num_train` and `num_val` images of one size, with masks."""

    num_train: int = 480
    num_val: int = 96
    height: int = 128
    width: int = 128
    seed: int = 0
    class_names: ClassVar[tuple[str, ...]] = CLASS_NAMES
    palette: ClassVar[tuple[Rgb, ...]] = default_palette(len(CLASS_NAMES))
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 16:
            raise DataError(f"synthetic images of {self.width}x{self.height}; height and width must be at least 16")
        if self.num_train < 1 or self.num_val < 0:
            raise DataError(f"{self.num_train} training and {self.num_val} validation images; give at least 1 and 0")

    def samples(self) -> Sequence[SampleRef]:
        version = f"{self.seed}/{self.height}x{self.width}"
        return [
            SampleRef(
                key=f"{split}{number:06d}",
                split=split,
                where=f"synthetic {split} image {number}",
                num_bytes=self.height * self.width,
                version=version,
                portable_version=version,
            )
            for split, count in (("train", self.num_train), ("val", self.num_val))
            for number in range(count)
        ]

    def load(self, sample: SampleRef) -> RawSample:
        number, scene = self.draw(sample)
        return RawSample(image=encode_image(scene.image, _suffix(number)), mask=scene.mask)

    def draw(self, sample: SampleRef) -> tuple[int, "Scene"]:
        """The number of a sample in its split, and its scene."""
        number = int(sample.key.removeprefix(sample.split))
        return number, draw_shapes(self.height, self.width, generator("synthetic", self.seed, sample.split, number))


@dataclass(frozen=True, kw_only=True)
class SyntheticInstances:
    """The same images, with every shape as an object. Pixels that another shape covers do not belong to it."""

    scenes: SyntheticSource
    task: ClassVar[Literal["instance"]] = "instance"
    class_names: ClassVar[tuple[str, ...]] = CLASS_NAMES[1:]
    palette: ClassVar[tuple[Rgb, ...]] = default_palette(len(CLASS_NAMES))[1:]
    category_ids: ClassVar[tuple[int, ...]] = tuple(range(1, len(CLASS_NAMES)))
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def samples(self) -> Sequence[SampleRef]:
        return self.scenes.samples()

    def load(self, sample: SampleRef) -> RawInstances:
        number, scene = self.scenes.draw(sample)
        ids, classes = scene.ids, scene.classes
        shapes = ((i, ids == i + 1) for i in range(len(classes)))
        visible = [(i, mask) for i, mask in shapes if mask.sum() >= _MIN_OBJECT_PIXELS]
        rles = encode_masks(np.array([mask for _, mask in visible]).reshape(-1, *ids.shape))
        return RawInstances(
            image=encode_image(scene.image, _suffix(number)),
            objects=tuple(
                RawObject(id=i + 1, class_id=classes[i] - 1, crowd=False, rle=rle)
                for (i, _), (rle, _) in zip(visible, rles, strict=True)
            ),
            height=self.scenes.height,
            width=self.scenes.width,
            image_id=number,
            file_name=f"{sample.key}.{_suffix(number)}",
        )


@dataclass(frozen=True, kw_only=True)
class SyntheticLabels:
    """The same images, with a layer for each class. Shapes continue where others cover them, so layers overlap."""

    scenes: SyntheticSource
    task: ClassVar[Literal["multilabel"]] = "multilabel"
    class_names: ClassVar[tuple[str, ...]] = CLASS_NAMES[1:]
    palette: ClassVar[tuple[Rgb, ...]] = default_palette(len(CLASS_NAMES))[1:]
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def samples(self) -> Sequence[SampleRef]:
        return self.scenes.samples()

    def load(self, sample: SampleRef) -> RawSample:
        number, scene = self.scenes.draw(sample)
        layers = np.zeros((len(self.class_names), *scene.ids.shape), np.uint8)
        for class_id, whole in zip(scene.classes, scene.whole, strict=True):
            layers[class_id - 1][whole] = 1
        return RawSample(image=encode_image(scene.image, _suffix(number)), mask=layers)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image and its shapes, drawn by `draw_shapes`."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    ids: NDArray[np.uint8]
    """(H, W): the number of the visible object, from 1; 0 for the background."""
    classes: tuple[int, ...]
    """The class of each object."""
    whole: tuple[NDArray[np.bool_], ...]
    """(H, W) each: all pixels of the object, also where another object covers it."""

    @property
    def mask(self) -> NDArray[np.uint8]:
        """(H, W) class ids of what is visible."""
        return np.array([0, *self.classes], np.uint8)[self.ids]


def draw_shapes(height: int, width: int, rng: np.random.Generator) -> Scene:
    """Draw an image of random shapes."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    canvas = _texture(height, width, _hsv(rng.random(), rng.uniform(0, 0.45), rng.uniform(0.25, 0.8)), rng)
    ids, classes, whole = np.zeros((height, width), np.uint8), list[int](), list[NDArray[np.bool_]]()
    for _ in range(rng.integers(3, 9)):
        _speck(canvas, y, x, rng)
    for _ in range(rng.integers(2, 6)):
        class_id = int(rng.integers(1, len(CLASS_NAMES)))
        size = min(height, width) * rng.uniform(0.11, 0.26)
        distance = _placed(_SHAPES[class_id - 1], y, x, size, rng)
        hue = _HUES[class_id - 1] + rng.normal(0, _HUE_SPREAD)
        surface = _texture(height, width, _hsv(hue % 1, rng.uniform(0.35, 0.95), rng.uniform(0.4, 0.95)), rng)
        _blend(canvas, surface, distance)
        classes.append(class_id)
        whole.append(distance < 0)
        ids[whole[-1]] = len(classes)
    light = 1 + rng.uniform(0, 0.35) * _waves(y / height, x / width, rng)
    noise = rng.normal(0, rng.uniform(2, 10), canvas.shape)
    image = np.clip(canvas * light[..., None] + noise, 0, 255).astype(np.uint8)
    return Scene(image=image, ids=ids, classes=tuple(classes), whole=tuple(whole))


def _suffix(number: int) -> str:
    """The format of an image by its number in the split."""
    return "jpg" if number % _PNG_EVERY else "png"


# Signed distances, in units of the shape's size, negative inside: u to the right, v downwards, from its centre.
def _disk(u: Field, v: Field) -> Field:
    return np.asarray(np.hypot(u, v) - 1.0)


def _square(u: Field, v: Field) -> Field:
    return np.asarray(np.maximum(np.abs(u), np.abs(v)) - 0.85)


def _triangle(u: Field, v: Field) -> Field:
    return np.maximum(v - 0.6, np.abs(u) * 0.866 - v * 0.5 - 0.6)


def _ring(u: Field, v: Field) -> Field:
    return np.asarray(np.abs(np.hypot(u, v) - 0.75) - 0.27)


def _cross(u: Field, v: Field) -> Field:
    bar, beam = np.maximum(np.abs(u) - 0.32, np.abs(v) - 1), np.maximum(np.abs(v) - 0.32, np.abs(u) - 1)
    return np.asarray(np.minimum(bar, beam))


_SHAPES: tuple[Callable[[Field, Field], Field], ...] = (_disk, _square, _triangle, _ring, _cross)


def _placed(shape: Callable[[Field, Field], Field], y: Field, x: Field, size: float, rng: np.random.Generator) -> Field:
    """Signed distance in pixels from the shape, which is placed at random, turned and slightly squeezed."""
    height, width = y.shape
    down, right = y - rng.uniform(0.05, 0.95) * height, x - rng.uniform(0.05, 0.95) * width
    angle, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.15)
    u = (np.cos(angle) * right + np.sin(angle) * down) / size
    v = (np.cos(angle) * down - np.sin(angle) * right) / (size * squeeze)
    return shape(u, v) * size


def _speck(canvas: Field, y: Field, x: Field, rng: np.random.Generator) -> None:
    """Draw a small blot or line in any colour, which belongs to no class."""
    shape = _disk if rng.random() < 0.5 else (lambda u, v: np.maximum(np.abs(u) - 2, np.abs(v) - 0.25))
    distance = _placed(shape, y, x, rng.uniform(1.5, 4.0), rng)
    color = _hsv(rng.random(), rng.uniform(0.2, 1), rng.uniform(0.2, 1))
    _blend(canvas, np.broadcast_to(color, canvas.shape), distance)


def _blend(canvas: Field, surface: Field, distance: Field) -> None:
    """Lay the surface over the canvas where the distance is negative, with a soft edge of one pixel."""
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    canvas += cover * (surface - canvas)


def _texture(height: int, width: int, color: Field, rng: np.random.Generator) -> Field:
    """(H, W, 3): the colour, with blotches and stripes."""
    cells = int(rng.integers(3, 12))
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    blotches = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 14)
    stripes = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / period + rng.uniform(0, 6.28))
    relief = rng.uniform(5, 30) * blotches + rng.uniform(0, 14) * stripes
    return np.asarray(color + relief[..., None])


def _waves(y: Field, x: Field, rng: np.random.Generator) -> Field:
    """Uneven lighting: a slow wave over the picture, in [-1, 1]."""
    angle = rng.uniform(0, 2 * np.pi)
    wave: Field = np.sin(np.pi * (np.cos(angle) * x + np.sin(angle) * y) + rng.uniform(0, 2 * np.pi))
    return wave


def _hsv(hue: float, saturation: float, value: float) -> Field:
    """RGB from 0 to 255."""
    sector = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    rgb: Field = 255 * value * (1 - saturation * np.clip(np.minimum(sector, 4 - sector), 0, 1))
    return rgb
