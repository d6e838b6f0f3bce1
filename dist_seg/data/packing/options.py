"""Options of packing, and what all shards of one run of packing have in common."""

from dataclasses import dataclass

from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.packing.image_kind import ImageKind
from dist_seg.data.packing.records import RecordedOptions
from dist_seg.data.raw.meaning import MEANING, Meaning
from dist_seg.data.raw.source import AnySource, is_instances, task_of
from dist_seg.data.raw.splitting import DIVISION, Division
from dist_seg.errors import DataError, UserError

SHARD_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How samples become shards."""

    workers: int = 1
    """Processes that decode and write, one shard at a time each."""
    shard_bytes: int = SHARD_BYTES
    """Target size of a shard."""
    skip_bad: bool = False
    """Leave samples that cannot be packed out and count them, instead of refusing the data set."""
    max_pixels: int = MAX_PIXELS
    """An image or mask with more pixels is bad."""
    max_side: int | None = None
    """Images whose longer side exceeds it are shrunk, with their masks."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise DataError(f"workers is {self.workers}, must be at least 1")
        if self.max_side is not None and self.max_side < 1:
            raise UserError(f"--max-side {self.max_side}: give a number of pixels of at least 1")


@dataclass(frozen=True, kw_only=True)
class Packing:
    """One run of packing: the raw data, the options, and the kind of the images. Sent to every worker process."""

    source: AnySource
    options: PackOptions
    images: ImageKind
    """Images of another kind are bad."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What decides a shard's bytes besides its samples. Part of the fingerprints, so its form must not change."""
        source = self.source
        identity: tuple[object, ...] = (source.class_names, source.ignore_index, self.options.max_pixels)
        if task_of(source) == "multilabel":
            identity = (*identity, "multilabel")
        if is_instances(source):
            identity = (*identity, source.category_ids)
        if self.images.array:
            identity = (*identity, str(self.images.array))
        return identity if self.options.max_side is None else (*identity, {"max_side": self.options.max_side})

    def recorded(self) -> RecordedOptions:
        """The options that decide what is in the shards, by their names on the command line. Stored in `pack.json`."""
        options: RecordedOptions = {
            "--shard-mb": self.options.shard_bytes / 1e6,
            "--max-pixels": self.options.max_pixels,
            "--max-side": self.options.max_side,
        }
        division: Division | None = getattr(self.source, "division", None)
        meaning: Meaning | None = getattr(self.source, "meaning", None)
        if division is not None:
            options[DIVISION] = division.record
        if meaning is not None:
            options[MEANING] = meaning
        return options
