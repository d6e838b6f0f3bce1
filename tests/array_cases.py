"""What the tests of arrays share: images of many channels and 16 bits, and the files that hold them."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import encode_class_ids
from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.loading.batch import Batch
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawInstances, RawSample, SampleRef
from dist_seg.masks.rle import encode_masks
from dist_seg.storage.object_store import open_storage
from tests.loader_cases import AUGMENTATIONS, PackedData, scene

Array = NDArray[np.uint8] | NDArray[np.uint16]
MASK = np.arange(600, dtype=np.uint8).reshape(20, 30) % 3
COLORLESS = {
    name: dataclasses.replace(augment, saturation=0.0, hue_deg=0.0)
    for name, augment in AUGMENTATIONS.items()
    if name not in ("saturation", "hue")
}
BRIGHT = 9000
"""What the classes of `bands` add to the noise below it."""


def noise(dtype: str, channels: int, height: int = 20, width: int = 30, seed: int = 0) -> Array:
    """(H, W, C) of every value that the type has."""
    high = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, high, (height, width, channels), dtype=dtype, endpoint=True)


def tiff(values: Array, *, pages: bool = False, planar: bool = False, **options: object) -> bytes:
    """(H, W, C) as the file's bytes: interleaved, as planes of one page, or as pages. Needs tifffile."""
    import tifffile

    file = io.BytesIO()
    options = {"photometric": "minisblack", "metadata": None, **options}
    if pages or planar:
        arranged = np.ascontiguousarray(values.transpose(2, 0, 1))
        planarconfig = "separate" if planar and values.shape[2] > 1 else None
        tifffile.imwrite(file, arranged, planarconfig=planarconfig, **options)
    else:
        arranged = values if values.shape[2] > 1 else values[..., 0]
        tifffile.imwrite(file, arranged, planarconfig="contig" if values.shape[2] > 1 else None, **options)
    return file.getvalue()


def png(values: Array) -> bytes:
    """(H, W, C) of 16 bits: grey, grey and alpha, RGB or RGBA, by its channels. Needs imagecodecs."""
    import imagecodecs

    return bytes(imagecodecs.png_encode(values if values.shape[2] > 1 else values[..., 0]))


def bands(seed: int, height: int = 48, width: int = 64) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """(H, W, 8) noise in which only channels 4 and 7 tell three classes apart, and the mask (H, W)."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for class_id in (1, 2):
        y, x = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[y : y + height // 2, x : x + width // 2] = class_id
    values = rng.integers(0, 2000, (height, width, 8), dtype=np.uint16)
    values[..., 4] += BRIGHT * (mask == 1).astype(np.uint16)
    values[..., 7] += BRIGHT * (mask == 2).astype(np.uint16)
    return values, mask


def write_folder(root: Path, images: Sequence[bytes], masks: Sequence[NDArray[np.uint8]], suffix: str = "tif") -> None:
    """`root/images/0.tif` and `root/masks/0.png`, and so on."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        (root / "images" / f"{i}.{suffix}").write_bytes(image)
        (root / "masks" / f"{i}.png").write_bytes(encode_class_ids(mask))


class ArraySource:
    """Decoded images, as a reader of the user's own gives them."""

    class_names = ("a", "b", "c")
    palette = ((0, 0, 0), (1, 1, 1), (2, 2, 2))
    ignore_index = 255
    prefix = "image"

    def __init__(self, images: Sequence[Array]) -> None:
        self.images = images

    def samples(self) -> list[SampleRef]:
        return [
            SampleRef(
                key=str(i) if self.prefix == "image" else f"{self.prefix}{i}",
                split="train" if i % 4 else "val",
                where=f"{self.prefix} {i}",
                num_bytes=image.nbytes,
                version="1",
            )
            for i, image in enumerate(self.images)
        ]

    def load(self, sample: SampleRef) -> RawSample:
        image = self.images[int(sample.key.removeprefix(self.prefix))]
        return RawSample(image=image, mask=np.resize(MASK, image.shape[:2]))


class LabelledArrays(ArraySource):
    """Each with two layers that overlap, and with pixels of which one is not known."""

    task = "multilabel"

    def load(self, sample: SampleRef) -> RawSample:
        image = self.images[int(sample.key)]
        layers = np.zeros((3, *image.shape[:2]), np.uint8)
        layers[0, :20], layers[2, 10:, 5:30], layers[2, -8:, -8:] = 1, 1, 255
        return RawSample(image=image, mask=layers)


class ArraysWithObjects(ArraySource):
    """Each with three objects, of which two overlap: so there are two layers."""

    task = "instance"
    category_ids = (1, 2, 3)

    def load(self, sample: SampleRef) -> RawInstances:  # type: ignore[override]
        image = self.images[int(sample.key)]
        height, width = image.shape[:2]
        masks = np.zeros((3, height, width), bool)
        masks[0, 2:20, 3:25], masks[1, 12:30, 15:35], masks[2, -10:-1, -12:-2] = True, True, True
        return RawInstances(
            image=image,
            objects=tuple(
                RawObject(id=i + 1, class_id=i, crowd=False, rle=rle) for i, (rle, _) in enumerate(encode_masks(masks))
            ),
            height=height,
            width=width,
            image_id=int(sample.key),
            file_name=f"{sample.key}.npy",
        )


def packed(folder: Path, images: Sequence[Array]) -> PackedData:
    """In one split, `train`."""

    class OneSplit(ArraySource):
        def samples(self) -> list:  # type: ignore[type-arg]
            return [dataclasses.replace(sample, split="train") for sample in super().samples()]

        def load(self, sample):  # type: ignore[no-untyped-def]
            raw = super().load(sample)
            height, width = self.images[int(sample.key)].shape[:2]
            return dataclasses.replace(raw, mask=np.zeros((height, width), np.uint8))

    manifest = pack(OneSplit(images), folder).manifest
    return PackedData(open_storage(folder), manifest)


def smooth(seed: int, height: int, width: int, channels: int = 5) -> Array:
    """(H, W, C) uint16 with edges and texture, and a level of its own for every channel."""
    picture, _ = scene(seed, height, width)
    levels = [40 * picture[..., i % 3].astype(np.uint16) + 3000 * i for i in range(channels)]
    return np.dstack(levels)


def assert_close(reference: Sequence[Batch], other: Sequence[Batch], most: float) -> None:
    """most: of the mean difference, in standard deviations of the data."""
    for a, b in zip(reference, other, strict=True):
        assert (a.keys, a.digest, a.images.dtype, a.images.shape) == (b.keys, b.digest, b.images.dtype, b.images.shape)
        assert (a.targets == b.targets.cpu()).float().mean() >= 0.995
        for one, two in zip(a.images, b.images.cpu(), strict=True):
            assert (one - two).abs().mean().item() <= most
