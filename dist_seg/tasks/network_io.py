"""What goes into a task's network and what comes out of it: blank images, and logits."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from dist_seg.config.schema import Config
from dist_seg.data.loading.batch import Batch
from dist_seg.data.view.pixel_values import input_channels
from dist_seg.errors import ConfigError
from dist_seg.runtime.precision import at_least_float32
from dist_seg.tasks.task import Forward


def blank_images(config: Config, device: torch.device) -> torch.Tensor:
    """A micro-batch of zeros (B, C, H, W) float32 with the shape and the memory format of training's images."""
    train, augment = config.train, config.augment
    assert train.micro_batch is not None and augment.crop_height is not None and augment.crop_width is not None
    size = (augment.crop_height, augment.crop_width)
    images = torch.zeros(train.micro_batch, input_channels(config.data), *size, device=device)
    return images.contiguous(memory_format=torch.channels_last) if train.channels_last else images


def checked_logits(forward: Forward, batch: Batch, num_classes: int, config: Config) -> torch.Tensor:
    """The network's logits (B, num_classes, H, W) for a batch; half precision becomes float32.

    Raises ConfigError if the network, which may be the user's own, returns anything else.
    """
    logits = forward(batch.images)
    if not isinstance(logits, torch.Tensor):
        raise ConfigError(
            f"model.name: {config.model.name}: a network for the task `{config.task}` must return logits "
            f"(B, C, H, W), this one returned a {type(logits).__name__}"
        )
    expected = (len(batch.targets), num_classes, *batch.targets.shape[-2:])
    if tuple(logits.shape) != expected:
        raise ConfigError(
            f"model.name: {config.model.name}: the network returned logits of the shape "
            f"{tuple(logits.shape)}, expected {expected}: images, classes, height and width of the images"
        )
    return at_least_float32(logits)


def resized(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Maps (B, C, H, W) at `size` (height, width), interpolated bilinearly."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
