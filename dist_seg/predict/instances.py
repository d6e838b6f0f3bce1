"""Instances of pictures, predicted as a whole or in windows. Objects cut by a window border are rejoined."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from dist_seg.config.schema import DataConfig
from dist_seg.data.codecs.npy import Values
from dist_seg.masks.rle import decode_mask, encode_placed, mask_extent
from dist_seg.metrics.instances import ScoredInstance
from dist_seg.models.mask_rcnn.detections import Detections, paste_masks
from dist_seg.predict.seams import Piece, Region, merge_pieces
from dist_seg.predict.windows import Window, prepared, windows_of
from dist_seg.tasks.instance import to_instances

MAX_IDS = 65_535
"""The largest number of objects that 16-bit ids can tell apart."""
_CUT_PIXELS = 8.0
"""A box this close to a window's border, in pixels of the network's input, may be cut by it. The network's boxes of cut
objects end up to this far before the border."""

Detect = Callable[[torch.Tensor], Detections]
"""A normalised image (1, C, h, w) -> the objects detected in it."""


def predict_instances(
    image_hwc: Values,
    detect: Detect,
    *,
    data: DataConfig,
    device: torch.device,
    mask_threshold: float,
    window: int | None = None,
) -> list[ScoredInstance]:
    """The instances of an RGB image (H, W, 3) uint8 or an array image (H, W, C), the highest score first. Boxes and
    masks are in pixels of the image.

    window: side in pixels of the windows into which larger pictures are cut. None: windows only for pictures of more
    than `WHOLE_PIXELS`.
    """
    size = (image_hwc.shape[0], image_hwc.shape[1])
    images = prepared(image_hwc, data, device)
    input_size = (images.shape[-2], images.shape[-1])
    windows = windows_of(*input_size, window)
    if len(windows) == 1:
        return to_instances(detect(images), input_size, size, mask_threshold)
    pieces = [
        piece
        for part in windows
        for piece in _pieces_of(detect(part.of(images)), part, input_size, size, mask_threshold)
    ]
    found = [
        ScoredInstance(
            class_id=piece.class_id,
            score=piece.score,
            bbox=(piece.box[0], piece.box[1], piece.box[2] - piece.box[0], piece.box[3] - piece.box[1]),
            rle=encode_placed(piece.mask, piece.top, piece.left, *size),
        )
        for piece in merge_pieces(pieces)
    ]
    return sorted(found, key=lambda instance: -instance.score)


def id_map(instances: list[ScoredInstance], height: int, width: int) -> NDArray[np.uint16]:
    """(height, width): the number of the instance in the list, counted from 1, or 0. Earlier instances are on top."""
    ids = np.zeros((height, width), np.uint16)
    for number, instance in reversed(list(enumerate(instances[:MAX_IDS], start=1))):
        ids[decode_mask(instance.rle, height, width)] = number
    return ids


def _pieces_of(
    found: Detections, window: Window, input_size: tuple[int, int], size: tuple[int, int], mask_threshold: float
) -> Iterator[Piece]:
    """The objects found in a window, in pixels of the picture."""
    (in_height, in_width), (height, width) = input_size, size
    down, across = height / in_height, width / in_width
    bottom, right = window.top + window.height, window.left + window.width
    region = Region(
        top=int(np.floor(window.top * down)),
        left=int(np.floor(window.left * across)),
        bottom=min(height, int(np.ceil(bottom * down))),
        right=min(width, int(np.ceil(right * across))),
    )
    boxes = found.boxes.float().cpu()
    # The picture's own borders do not count: no other window sees what they cut.
    cut = (
        ((boxes[:, 0] < _CUT_PIXELS) & (window.left > 0))
        | ((boxes[:, 1] < _CUT_PIXELS) & (window.top > 0))
        | ((boxes[:, 2] > window.width - _CUT_PIXELS) & (right < in_width))
        | ((boxes[:, 3] > window.height - _CUT_PIXELS) & (bottom < in_height))
    )
    placed = (boxes + torch.tensor([window.left, window.top] * 2)) * torch.tensor([across, down] * 2)
    local = Detections(
        boxes=(placed - torch.tensor([region.left, region.top] * 2)).to(found.boxes.device),
        scores=found.scores,
        labels=found.labels,
        masks=found.masks.float(),
    )
    pasted = paste_masks(local, region.bottom - region.top, region.right - region.left, threshold=mask_threshold)
    masks = (mask for chunk in pasted for mask in chunk.cpu().numpy())
    rows = zip(masks, placed.tolist(), found.scores.tolist(), found.labels.tolist(), cut.tolist(), strict=True)
    for mask, (x1, y1, x2, y2), score, label, is_cut in rows:
        extent = mask_extent(mask)
        if mask[extent].size:
            yield Piece(
                class_id=label,
                score=score,
                box=(x1, y1, x2, y2),
                mask=mask[extent].copy(),
                top=region.top + extent[0].start,
                left=region.left + extent[1].start,
                window=region,
                cut=is_cut,
            )
