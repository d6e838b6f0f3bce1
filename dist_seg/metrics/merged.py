"""The semantic result of instances: one class for every pixel, so that there is an IoU of classes for both tasks."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_seg.masks.rle import boxes_and_areas, decode_mask
from dist_seg.metrics.instances import ScoredImage

BACKGROUND = 0
IGNORED = 255


def class_map(
    image: ScoredImage, which: Literal["truth", "predictions"], num_classes: int, score_threshold: float = 0.5
) -> NDArray[np.uint8]:
    """Class ids (height, width): 0 is the background, class c of the instances is c + 1; 255, in the truth, crowds.

    Where predictions overlap, the one with the highest score is on top (of equals the first); those with a score below
    the threshold are left out. Where true objects overlap, the one with the smallest mask is on top.
    """
    assert num_classes < IGNORED
    if which == "truth":
        # Not by the area as annotated, which may be anything.
        pixels = boxes_and_areas([thing.rle for thing in image.truth], image.height, image.width)[1]
        ordered = [image.truth[index] for index in np.argsort(-pixels, kind="stable")]
        layers = [(IGNORED if thing.crowd else thing.class_id + 1, thing.rle) for thing in ordered]
    else:
        kept = [thing for thing in image.predictions if thing.score >= score_threshold]
        best_first = sorted(kept, key=lambda thing: -thing.score)
        layers = [(thing.class_id + 1, thing.rle) for thing in reversed(best_first)]
    painted = np.full((image.height, image.width), BACKGROUND, dtype=np.uint8, order="F")  # as decoded masks lie
    for value, rle in layers:
        assert 0 < value <= num_classes or value == IGNORED
        np.copyto(painted, np.uint8(value), where=decode_mask(rle, image.height, image.width))
    return np.ascontiguousarray(painted)
