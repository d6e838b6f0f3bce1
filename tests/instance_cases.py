"""Shared by the tests of the loaders of instances: real and drawn images with objects, and the comparison of two
loaders' objects."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dist_seg.config.schema import AugmentConfig
from dist_seg.data.codecs.object_layers import RawObject, encode_instances
from dist_seg.data.formats.coco.instances import open_coco
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.objects import ImageObjects
from dist_seg.data.packing.sample import encode_instance_sample
from dist_seg.data.raw.images import MAX_PIXELS
from dist_seg.data.shards.writer import EncodedMembers
from dist_seg.masks.rle import encode_masks
from tests.loader_cases import scene_sample

COCO_KEYS = ("000000000196", "000000000357", "000000000400", "000000000536")
"""Three, one, two and two layers; a crowd in the second. 480x640, 218x640, 640x638, 336x448."""
NUCLEI_KEYS = ("0ea221716cf13710", "f26f4c2c70c38fe1")
"""369 objects in one layer, 53 in two. 520x696, 256x256."""

LARGE_SCALE_JITTER = AugmentConfig(crop_height=160, crop_width=160, scale_min=0.1, scale_max=2.0)
"""With `data.input_side=160`."""


def real_samples(shared_data: Path) -> list[EncodedMembers]:
    """Photographs and microscopy, all of different sizes."""
    return [
        encode_instance_sample(sample, source, MAX_PIXELS, skip_bad=False).members
        for folder, keys in (("coco100", COCO_KEYS), ("nuclei", NUCLEI_KEYS))
        for source in (open_coco(shared_data / folder),)
        for sample in source.samples()
        if sample.key in keys
    ]


def discs_sample(
    seed: int, *, height: int = 120, width: int = 150, depth: int = 1, crowd: bool = False, form: str = "jpeg444"
) -> EncodedMembers:
    """Six places with `depth` discs each, one inside the other, which gives `depth` layers.

    Object i is of class i % 5. crowd: the last object is one.
    """
    y, x = np.mgrid[:height, :width]
    side = min(height / 2, width / 3)
    masks = [
        np.hypot(y - (row + 0.5) * height / 2, x - (column + 0.5) * width / 3) < side * (0.5 - 0.12 * inner)
        for row in range(2)
        for column in range(3)
        for inner in range(depth)
    ]
    objects = [
        RawObject(id=i + 1, class_id=i % 5, crowd=crowd and i == len(masks) - 1, rle=rle)
        for i, (rle, _) in enumerate(encode_masks(np.array(masks)))
    ]
    encoded = encode_instances(
        objects, height=height, width=width, num_classes=5, image_id=seed, file_name=f"{seed}.png"
    )
    members = scene_sample(seed, height=height, width=width, form=form)
    assert encoded.annotations is not None
    return replace(members, target=encoded.data, annotations=encoded.annotations.to_json())


def assert_same_objects(reference: Sequence[Batch], other: Sequence[Batch]) -> None:
    """Objects with equal pixels in both must have the same box, label, layer and flag. Few may differ in a pixel."""
    touched = total = 0
    for a, b in zip(reference, other, strict=True):
        assert len(a.objects) == len(b.objects) == len(a.keys)
        targets = b.targets.cpu()
        for i, key in enumerate(a.keys):
            differing = a.targets[i] != targets[i]
            moved = {*a.targets[i][differing].tolist(), *targets[i][differing].tolist()}
            expected, found = _records(a.objects[i]), _records(b.objects[i])
            assert _without(expected, moved) == _without(found, moved), key
            touched, total = touched + len(moved & expected.keys()), total + len(expected)
    assert total > 0
    assert touched <= 0.1 * total, f"{touched} of {total} objects differ in some pixel"


def _records(objects: ImageObjects) -> dict[int, tuple[object, ...]]:
    rows = zip(
        objects.ids.tolist(),
        objects.boxes.tolist(),
        objects.labels.tolist(),
        objects.ignored.tolist(),
        objects.layers.tolist(),
        strict=True,
    )
    return {number: tuple(row) for number, *row in rows}


def _without(records: dict[int, tuple[object, ...]], numbers: set[int]) -> dict[int, tuple[object, ...]]:
    return {number: record for number, record in records.items() if number not in numbers}
