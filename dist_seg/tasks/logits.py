"""What the tasks that a network answers with logits have in common."""

import torch

from dist_seg.config.schema import Config
from dist_seg.data.loading.batch import Batch
from dist_seg.data.view.pixel_values import input_channels
from dist_seg.errors import ConfigError
from dist_seg.tasks.task import Forward


def checked_logits(forward: Forward, batch: Batch, num_classes: int, config: Config) -> torch.Tensor:
    """The network's logits (B, C, H, W) of a batch, in float32 or better. Raises ConfigError for anything else."""
    logits = forward(batch.images)
    if not isinstance(logits, torch.Tensor):
        raise ConfigError(
            f"model.name: {config.model.name}: a network for the task `{config.task}` must return logits "
            f"(B, C, H, W), this one returned a {type(logits).__name__}"
        )
    wanted = (len(batch.targets), num_classes, *batch.targets.shape[-2:])
    if tuple(logits.shape) != wanted:
        raise ConfigError(
            f"model.name: {config.model.name}: the network returned logits of the shape "
            f"{tuple(logits.shape)}, expected {wanted}: images, classes, height and width of the images"
        )
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def blank_images(config: Config, device: torch.device) -> torch.Tensor:
    """A micro-batch of the training's shape without any content, laid out in memory as images are."""
    train, augment = config.train, config.augment
    assert train.micro_batch is not None and augment.crop_height is not None and augment.crop_width is not None
    size = (augment.crop_height, augment.crop_width)
    images = torch.zeros(train.micro_batch, input_channels(config.data), *size, device=device)
    return images.contiguous(memory_format=torch.channels_last) if train.channels_last else images
