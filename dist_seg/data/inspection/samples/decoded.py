"""One packed sample as inspection sees it, whatever its image and its target are stored as."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.annotations import ObjectAnnotation
from dist_seg.data.codecs.decode import decode_image
from dist_seg.data.codecs.encoded import UNKNOWN, EncodedSample
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.npy import Values, decode_npy, rgb_view
from dist_seg.data.codecs.targets import read_sample
from dist_seg.data.shards.manifest import Manifest, ShardInfo
from dist_seg.data.shards.sidecar import Sidecar, crc32c
from dist_seg.errors import DataError
from dist_seg.storage.object_store import Storage


@dataclass(frozen=True, kw_only=True)
class SampleView:
    """A decoded sample."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB with 8 bits; for other images, what a person would see of them."""
    layers: NDArray[np.int16]
    """(L, H, W) as `TargetContents.layers`."""
    class_pixels: NDArray[np.int64]
    """(classes,) as `TargetContents.class_pixels`."""
    ignored_fraction: float
    """Share of unknown pixels among all pixels of all layers."""
    values: Values | None = None
    """Arrays only: the values (H, W, C) that `image` shows."""
    objects: tuple[ObjectAnnotation, ...] | None = None
    """Instance data only."""
    boxes: NDArray[np.float64] | None = None
    """(N, 4) x, y, width and height of the objects' exact masks."""
    areas: NDArray[np.int64] | None = None
    """(N,) pixels of the objects' exact masks."""


def read_members(storage: Storage, shard: ShardInfo, sidecar: Sidecar, index: int) -> list[bytes]:
    """A sample's members, in the order of their roles. Raises `DataError` for a damaged one."""
    found = []
    for role in sidecar.roles:
        member = sidecar.member(index, role)
        data = storage.read_range(shard.name, member.offset, member.length)
        if crc32c(data) != member.crc32c:
            raise DataError(f"{storage.url}/{shard.name}: {sidecar.key(index)}.{member.suffix} is damaged; run verify")
        found.append(data)
    return found


def packed_sample(members: list[bytes], manifest: Manifest, key: str, height: int, width: int) -> EncodedSample:
    """The sample that consists of these members. Raises `UndecodableError` for one that dist-seg would not pack."""
    return read_sample(members, manifest.target_kind, manifest.image, key=key, height=height, width=width)


def picture_of(sample: EncodedSample, manifest: Manifest) -> NDArray[np.uint8]:
    """A sample's image as (H, W, 3) RGB. Arrays show their first three channels, or the first as grey, on one scale for
    all splits. Raises `UndecodableError`."""
    if sample.array is None:
        return decode_image(sample.image)
    values = decode_npy(sample.image, sample.array, sample.height, sample.width)
    found = [split.channels for split in manifest.splits.values() if split.channels]
    low = np.array(found[0].low if found else [0] * sample.array.channels, np.float64)
    high = np.array(found[0].high if found else [sample.array.largest] * sample.array.channels, np.float64)
    return rgb_view(values, low, high)


def view_sample(members: list[bytes], manifest: Manifest, height: int, width: int, max_pixels: int) -> SampleView:
    """Decodes a sample. Raises `UndecodableError`, also for one of more than `max_pixels`."""
    if height * width > max_pixels:
        raise UndecodableError(
            f"image: {width}x{height} pixels, more than the allowed {max_pixels}; set a larger --max-pixels "
            "if you trust it"
        )
    sample = packed_sample(members, manifest, "", height, width)
    found = sample.kind.contents(sample)
    return SampleView(
        image=picture_of(sample, manifest),
        values=None if sample.array is None else decode_npy(sample.image, sample.array, height, width),
        layers=found.layers,
        class_pixels=found.class_pixels,
        ignored_fraction=float(np.mean(found.layers == UNKNOWN)),
        objects=found.objects,
        boxes=found.boxes,
        areas=found.areas,
    )
