"""Class ids and labels of pictures, predicted as a whole or in overlapping windows without visible seams."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dist_seg.config.schema import DataConfig
from dist_seg.data.codecs.npy import Values
from dist_seg.predict.windows import Window, prepared, windows_of

Scores = Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]
"""(images (1, C, h, w), (height, width)) -> scores of every class (1, K, height, width)."""


def predict_mask(
    image_hwc: Values,
    logits: Scores,
    *,
    data: DataConfig,
    device: torch.device,
    window: int | None = None,
) -> NDArray[np.uint8]:
    """Class ids (H, W) uint8 of an RGB image (H, W, 3) uint8 or an array image (H, W, C).

    window: side in pixels of the windows into which larger pictures are cut. None: windows only for pictures of more
    than `WHOLE_PIXELS`.
    """
    scores = _scores(image_hwc, logits, data, device, window, average_of=lambda found: found.softmax(dim=1))
    mask: NDArray[np.uint8] = scores.argmax(dim=0).to(torch.uint8).cpu().numpy()
    return mask


def predict_labels(
    image_hwc: Values,
    probabilities: Scores,
    *,
    threshold: float,
    data: DataConfig,
    device: torch.device,
    window: int | None = None,
) -> NDArray[np.bool_]:
    """Like `predict_mask`, for labels that may overlap: (K, H, W) bool, true above `threshold`."""
    scores = _scores(image_hwc, probabilities, data, device, window, average_of=lambda found: found)
    labels: NDArray[np.bool_] = (scores > threshold).cpu().numpy()
    return labels


def _scores(
    image_hwc: Values,
    scores_of: Scores,
    data: DataConfig,
    device: torch.device,
    window: int | None,
    average_of: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Scores (K, H, W) of the whole picture. average_of: turns scores into values that can be averaged over windows."""
    height, width = image_hwc.shape[:2]
    images = prepared(image_hwc, data, device)
    windows = windows_of(images.shape[-2], images.shape[-1], window)
    if len(windows) == 1:
        return scores_of(images, (height, width))[0]
    scores = _in_windows(images, lambda *part: average_of(scores_of(*part)), windows)
    if tuple(scores.shape[-2:]) != (height, width):
        scores = torch.nn.functional.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
    return scores[0]


def _in_windows(images: torch.Tensor, probabilities: Scores, windows: Sequence[Window]) -> torch.Tensor:
    """Averages overlapping windows with weights that fall towards each window's border, so no seam is visible."""
    height, width = images.shape[-2:]
    total: torch.Tensor | None = None
    weights = torch.zeros(1, 1, height, width, device=images.device)
    for window in windows:
        scores = probabilities(window.of(images), (window.height, window.width))
        weight = torch.outer(_ramp(window.height), _ramp(window.width)).to(images.device)
        if total is None:
            total = torch.zeros(1, scores.shape[1], height, width, device=images.device)
        window.of(total).add_(scores * weight)
        window.of(weights).add_(weight)
    assert total is not None
    return total / weights


def _ramp(length: int) -> torch.Tensor:
    distance = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(distance, distance.flip(0)) / length
