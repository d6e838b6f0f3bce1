"""Explains where a rank ran out of memory, with which sizes, and which settings need less."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dist_seg.config.schema import Config
from dist_seg.distributed.world import World
from dist_seg.errors import RunFailedError
from dist_seg.runtime.memory import is_out_of_memory


class OutOfMemoryError(RunFailedError):
    """A rank has run out of memory."""


@contextmanager
def memory_explained(config: Config, world: World, where: Callable[[], str]) -> Iterator[None]:
    """Turns out-of-memory errors into an OutOfMemoryError that says what to change.

    where: what the rank is doing, such as `step 3`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(_advice(config, world, where(), error)) from error


def _advice(config: Config, world: World, where: str, error: BaseException) -> str:
    train, crop, heads = config.train, config.augment, config.mask_rcnn
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    ways = [
        "lower train.micro_batch (train.global_batch can stay; but micro_batch is a part of the recipe: batch norm, "
        "hard examples and the Dice loss are defined on it)",
        "cut smaller crops (augment.crop_height, augment.crop_width)",
    ]
    sizes = (
        f"train.micro_batch={train.micro_batch}, crops of {crop.crop_width}x{crop.crop_height} (width x height), "
        f"train.precision={train.precision}"
    )
    if config.task == "instance":
        sizes += (
            f", mask_rcnn.roi_samples={heads.roi_samples}, mask_rcnn.mask_samples={heads.mask_samples}, "
            f"mask_rcnn.detections_per_image={heads.detections_per_image}"
        )
        ways.append("sample fewer regions (mask_rcnn.roi_samples, mask_rcnn.mask_samples)")
    if world.device.type == "cuda":
        ways.append("train in train.precision=bf16, where the GPU has it")
    else:
        ways.append(f"start fewer than the {world.local_size} ranks of this machine")
    ways.append(f"where it happens in an evaluation, lower eval.batch={config.eval.batch} or data.input_scale")
    return (
        f"rank {world.rank} ran out of memory on {world.device} in {where}: {first_line}\n"
        f"It trains with {sizes}. What helps: {'; '.join(ways)}"
    )
