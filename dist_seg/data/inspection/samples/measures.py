"""Measures of a sample: a record of 1.2 kB, which is kept with the key."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.inspection.samples.alignment import Fit, measure_fit
from dist_seg.data.inspection.samples.decoded import SampleView
from dist_seg.data.inspection.samples.hashes import HASH_WORDS, THUMBNAIL_SIDE, fingerprint

MEASURES = np.dtype(
    [
        ("shard", "<i4"),
        ("index", "<i4"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("digest", "<u8", (2,)),
        ("words", "<u8", (HASH_WORDS,)),
        ("mirrored", "<u8", (HASH_WORDS,)),
        ("thumbnail", "u1", (THUMBNAIL_SIDE, THUMBNAIL_SIDE)),
        ("brightness", "<f4"),
        ("contrast", "<f4"),
        ("constant", "?"),
        ("classes", "u1", (32,)),
        ("ignored", "<f4"),
        ("fit", "<f4"),
        ("best", "<f4"),
        ("shift", "<f4", (2,)),
        ("turn", "i1"),
        ("turned", "<f4"),
        ("objects", "<i4"),
        ("specks", "<i4"),
        ("slivers", "<i4"),
        ("twins", "<i4"),
        ("odd_boxes", "<i4"),
        ("odd_areas", "<i4"),
        ("zero_areas", "<i4"),
    ]
)
"""Fields of a record:

- `shard`, `index`: number of the shard in its split, and of the sample in its shard.
- `digest`: hash of size and pixels.
- `brightness`, `contrast`: mean and deviation of the grey image, 0 to 255.
- `constant`: whether the image has one colour; an array, in all its channels.
- `classes`: a bit for each class that occurs.
- `ignored`: share of the pixels.
- `fit` to `turned`: see `alignment.Fit`; `fit` is NaN if nothing can be said.
- `objects`: their number, -1 if the data has none; among them `specks` of one pixel, `slivers`, and `twins`, which have
  the mask and the class of an earlier object.
- `odd_boxes`, `odd_areas`, `zero_areas`: number of annotations that contradict their masks.
"""

_CONSTANT = 0.5
"""Standard deviation, in grey levels, below which an image has one colour."""
_SLIVER_LENGTH, _SLIVER_WIDTH = 8, 1.5
"""Pixels: the box of a sliver has a side at least so long, along which the object is narrower than this on average."""
_BOX_IOU, _BOX_PIXELS = 0.5, 8.0
"""A box is odd if its IoU with the mask's box is smaller than this and an edge is farther off than these pixels: tools
round, and thin ends of a polygon have no pixels."""
_AREA_RATIO, _RIM_PIXELS = 2.0, 2
"""An area is odd if it differs from the mask's by more than this ratio, and by more than a rim of this width around the
mask."""


def measure(view: SampleView) -> tuple[NDArray[np.void], Fit | None]:
    """The record, () of `MEASURES` without `shard` and `index`, and how the mask fits the image."""
    record = np.zeros((), MEASURES)
    height, width = view.image.shape[:2]
    digest = hashlib.blake2b(f"{height}x{width}".encode(), digest_size=16)
    digest.update((view.image if view.values is None else view.values).tobytes())
    grey = Image.fromarray(view.image).convert("L")
    found, histogram = fingerprint(grey), np.array(grey.histogram(), np.float64)
    mean = float(histogram @ np.arange(256)) / histogram.sum()
    record["height"], record["width"] = height, width
    record["digest"] = np.frombuffer(digest.digest(), np.uint64)
    record["words"], record["mirrored"], record["thumbnail"] = found.words, found.mirrored, found.thumbnail
    record["brightness"] = mean
    record["contrast"] = np.sqrt(float(histogram @ (np.arange(256) - mean) ** 2) / histogram.sum())
    if view.values is None:
        record["constant"] = record["contrast"] < _CONSTANT
    else:
        record["constant"] = np.ptp(view.values, axis=(0, 1)).max() == 0
    record["classes"] = _bits(_present(view))
    record["ignored"] = view.ignored_fraction
    record["objects"] = -1
    if view.objects is not None:
        record["objects"] = len(view.objects)
        record["specks"], record["slivers"], record["twins"] = _odd_objects(view)
        record["odd_boxes"] = _odd_boxes(view)
        record["odd_areas"], record["zero_areas"] = _odd_areas(view)
    fit = measure_fit(view.image, view.layers)
    record["fit"] = np.nan
    if fit:
        record["fit"], record["best"], record["shift"] = fit.fit, fit.best, fit.shift
        record["turn"], record["turned"] = fit.turn, fit.turned
    return record, fit


def classes_present(records: NDArray[np.void], num_classes: int) -> NDArray[np.bool_]:
    """(N, num_classes): whether a sample has a class."""
    return np.unpackbits(records["classes"], axis=1, count=num_classes).astype(np.bool_)


def _present(view: SampleView) -> NDArray[np.bool_]:
    """(classes,): whether a class has a pixel, or an object, even a hidden one."""
    if view.objects is None:
        return view.class_pixels > 0
    present = np.zeros(len(view.class_pixels), np.bool_)
    present[[found.class_id for found in view.objects]] = True
    return present


def _bits(present: NDArray[np.bool_]) -> NDArray[np.uint8]:
    bits = np.zeros(32, np.uint8)
    packed = np.packbits(present)
    bits[: len(packed)] = packed
    return bits


def _odd_objects(view: SampleView) -> tuple[int, int, int]:
    """Number of objects with one pixel, of slivers, and of objects with the class and mask of an earlier one. Without
    crowds."""
    assert view.objects is not None and view.boxes is not None and view.areas is not None
    single = np.array([not found.crowd for found in view.objects], np.bool_)
    lengths, areas = view.boxes[single, 2:].max(axis=1, initial=0), view.areas[single]
    slivers = (lengths >= _SLIVER_LENGTH) & (areas < _SLIVER_WIDTH * lengths)
    different = {(found.class_id, found.rle) for found in view.objects if not found.crowd}
    return int((areas <= 1).sum()), int(slivers.sum()), len(areas) - len(different)


def _odd_boxes(view: SampleView) -> int:
    """Number of annotations with a box that is not their mask's. Without crowds, whose boxes follow no rule."""
    assert view.objects is not None and view.boxes is not None
    single = np.array([not found.crowd for found in view.objects], np.bool_)
    given = np.array([found.bbox for found in view.objects], np.float64).reshape(-1, 4)[single]
    boxes = view.boxes[single]
    low, high = given[:, :2], given[:, :2] + given[:, 2:]
    true_low, true_high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    both = np.clip(np.minimum(high, true_high) - np.maximum(low, true_low), 0, None).prod(axis=1)
    either = given[:, 2:].prod(axis=1) + boxes[:, 2:].prod(axis=1) - both
    off = np.maximum(np.abs(low - true_low), np.abs(high - true_high)).max(axis=1, initial=0)
    return int(((both < _BOX_IOU * either) & (off > _BOX_PIXELS)).sum())


def _odd_areas(view: SampleView) -> tuple[int, int]:
    """Number of annotations with an area far from their mask's pixels, and with the area 0. Without crowds."""
    assert view.objects is not None and view.boxes is not None and view.areas is not None
    single = np.array([not found.crowd for found in view.objects], np.bool_)
    given = np.array([found.area for found in view.objects], np.float64)[single]
    pixels, rim = view.areas[single], 2 * _RIM_PIXELS * (view.boxes[single, 2:].sum(axis=1) + 2)
    height, width = view.image.shape[:2]
    unlike = np.maximum(given, pixels) > _AREA_RATIO * np.minimum(given, pixels)
    far = (unlike & (np.abs(given - pixels) > rim)) | (given > (height + 2) * (width + 2))
    return int((far & (given > 0)).sum()), int((given == 0).sum())
