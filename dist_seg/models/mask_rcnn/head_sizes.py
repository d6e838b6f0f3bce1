"""The sizes of Mask R-CNN's heads that a configuration may leave null: the paper's, or chosen from data and machine."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from dist_seg.config.schema import MaskRcnnConfig

_NUM_LEVELS = 5
_MOST_FINEST = 32.0
_LEAST_FINEST = 8.0
_HALF_OCTAVE = math.sqrt(2)


@dataclass(frozen=True, kw_only=True)
class HeadSizes:
    """Values for the fields of `MaskRcnnConfig` that may be None. The defaults are those of He et al. 2017 on COCO."""

    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    detections_per_image: int = 100
    fpn_channels: int = 256
    box_channels: int = 1024
    mask_channels: int = 256
    roi_samples: int = 512
    mask_samples: int = 128


PAPER = HeadSizes()
SMALL = HeadSizes(fpn_channels=128, box_channels=256, mask_channels=128, roi_samples=128, mask_samples=32)
"""A fifth of the paper's operations at a crop of 128x128; affordable for training on a CPU."""


def head_sizes(cfg: MaskRcnnConfig, default: HeadSizes = PAPER) -> HeadSizes:
    """The sizes that the configuration sets, and `default` for the others."""
    values = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(HeadSizes)}
    return dataclasses.replace(default, **{name: value for name, value in values.items() if value is not None})


def with_head_sizes(cfg: MaskRcnnConfig, default: HeadSizes) -> MaskRcnnConfig:
    """The configuration with every size set; `default` fills what it leaves open."""
    return dataclasses.replace(cfg, **dataclasses.asdict(head_sizes(cfg, default)))


def choose_anchor_sizes(
    sides: Sequence[float], *, scale: float, scale_min: float, scale_max: float, canvas: float
) -> tuple[float, ...]:
    """Five anchor sizes in whole pixels, one octave apart, that cover the data's objects; the paper's without objects.

    sides: percentiles of the objects' sides in pixels. scale: factor by which pictures are resized before augmentation,
    which draws another factor log-uniformly from [scale_min, scale_max]. canvas: longest side of a crop in pixels; no
    object is larger.

    An anchor covers the octave around its size. The anchors should cover the objects at the scale of the evaluation and
    at the middle half of the drawn scales. If five octaves leave a choice, the smaller anchors are chosen, because they
    see an object on a finer map: the finest anchor fits the smallest objects, but is at most the paper's 32. If five
    octaves do not suffice, both ends lose the same number of octaves. Anchors below 8 pixels would fall between the
    cells of the finest map, which are 4 pixels wide.
    """
    positive = [side * scale for side in sides if side > 0]
    if not positive:
        return PAPER.anchor_sizes
    ratio = scale_max / scale_min
    smallest = max(min(positive) * min(1.0, scale_min * ratio**0.25), _LEAST_FINEST / _HALF_OCTAVE)
    largest = max(min(max(positive) * max(1.0, scale_min * ratio**0.75), canvas), smallest)
    fits_smallest = smallest * _HALF_OCTAVE
    reaches_largest = largest / _HALF_OCTAVE / 2 ** (_NUM_LEVELS - 1)
    if reaches_largest > fits_smallest:
        finest = math.sqrt(reaches_largest * fits_smallest)
    else:
        finest = max(reaches_largest, min(_MOST_FINEST, fits_smallest))
    finest = float(round(max(finest, _LEAST_FINEST)))
    return tuple(finest * 2**level for level in range(_NUM_LEVELS))


def choose_detections(most_objects: int, *, most_proposals: int) -> int:
    """Detections per image: a third more than the most objects in an image, in hundreds; at least the paper's 100.

    most_proposals: proposals per image in evaluation, the upper limit, because every detection comes from a proposal.
    """
    enough = -(-most_objects * 4 // 300) * 100
    return max(PAPER.detections_per_image, min(enough, most_proposals))
