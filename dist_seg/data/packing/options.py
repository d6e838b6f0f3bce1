"""What packing and appending share: which shards are to be written, writing them, and the manifest of the result."""

from collections.abc import Callable
from dataclasses import dataclass

from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.packing.image_kind import PICTURES, ImageKind
from dist_seg.data.packing.records import Options
from dist_seg.data.raw.meaning import MEANING, Meaning
from dist_seg.data.raw.source import AnySource, is_instances, task_of
from dist_seg.data.raw.splitting import DIVISION, Division
from dist_seg.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How samples become shards."""

    workers: int = 1
    """Processes that decode and write, one shard at a time each."""
    skip_bad: bool = False
    """What cannot be packed is left out and counted."""
    max_pixels: int = MAX_PIXELS
    """Of an image or mask; a larger one is bad."""
    max_side: int | None = None
    """Images whose longer side is longer are shrunk to it, with their masks."""
    images: ImageKind = PICTURES
    """What all images are; others are bad."""
    progress: Callable[[int, int], None] | None = None
    """Is told samples done and in all."""

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < 1:
            raise UserError(f"--max-side {self.max_side}: give a number of pixels from 1")


def identity_of(source: AnySource, writing: Writing) -> tuple[object, ...]:
    """What decides a shard's bytes, besides its samples."""
    identity: tuple[object, ...] = (source.class_names, source.ignore_index, writing.max_pixels)
    if task_of(source) == "multilabel":
        identity = (*identity, "multilabel")
    if is_instances(source):
        identity = (*identity, source.category_ids)
    if writing.images.array:
        identity = (*identity, str(writing.images.array))
    return identity if writing.max_side is None else (*identity, {"max_side": writing.max_side})


def options_of(source: AnySource, writing: Writing, shard_bytes: int) -> Options:
    """What else decides shards, by the names that the user knows."""
    options: Options = {
        "--shard-mb": shard_bytes / 1e6,
        "--max-pixels": writing.max_pixels,
        "--max-side": writing.max_side,
    }
    division: Division | None = getattr(source, "division", None)
    meaning: Meaning | None = getattr(source, "meaning", None)
    if division is not None:
        options[DIVISION] = division.record
    if meaning is not None:
        options[MEANING] = meaning
    return options
